#!/usr/bin/env bash
# Kill a small grid again and again (--interrupt: by Ctrl-C), and compare its results in the end: scripts/torture.sh --kills 15
set -euo pipefail
. "$(dirname "$0")/environment.sh"
exec python "$repository/benchmarks/torture.py" "$@"
