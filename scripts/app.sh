#!/usr/bin/env bash
# Serve the page for your own music, on this machine only: scripts/app.sh [--port 7860]
set -euo pipefail
extra=app
. "$(dirname "$0")/environment.sh"
exec python -m genre_cls.app "$@"
