#!/usr/bin/env bash
# Kills a small grid again and again, by Ctrl-C as --interrupt, and compares what it ends with: scripts/torture.sh --kills 15
set -euo pipefail
. "$(dirname "$0")/environment.sh"
exec python "$repository/benchmarks/torture.py" "$@"
