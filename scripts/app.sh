#!/usr/bin/env bash
# Opens a page for your own music, on this machine alone: scripts/app.sh [--port 7860]
set -euo pipefail
extra=app
. "$(dirname "$0")/environment.sh"
exec python -m genre_cls.app "$@"
