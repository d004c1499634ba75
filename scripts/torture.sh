#!/usr/bin/env bash
# Kills a small grid at random moments and compares what it ends with: scripts/torture.sh --kills 15
set -euo pipefail
. "$(dirname "$0")/environment.sh"
exec python "$repository/benchmarks/torture.py" "$@"
