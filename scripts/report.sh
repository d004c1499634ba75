#!/usr/bin/env bash
# Lays what is stored side by side: scripts/report.sh
set -euo pipefail
. "$(dirname "$0")/environment.sh"
exec python -m genre_cls.report "$@"
