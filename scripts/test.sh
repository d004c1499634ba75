#!/usr/bin/env bash
# Run the tests: scripts/test.sh [--all] [pytest arguments]; --all adds the slow ones
set -euo pipefail
extra=test
. "$(dirname "$0")/environment.sh"
cd "$repository"
unset PYTHONDONTWRITEBYTECODE  # the tests start dozens of commands, which would all compile the package again
selection=(-m "not slow")
if [ "${1:-}" = "--all" ]; then
    selection=()
    shift
fi
exec python -m pytest --numprocesses auto --dist worksteal ${selection[@]+"${selection[@]}"} "$@"  # macOS's old bash treats an empty array as unset
