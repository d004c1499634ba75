#!/usr/bin/env bash
# Compare the stored configurations: scripts/report.sh
set -euo pipefail
. "$(dirname "$0")/environment.sh"
exec python -m genre_cls.report "$@"
