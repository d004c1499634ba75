#!/usr/bin/env bash
# Open MLflow on mlruns/, on this machine only: scripts/ui.sh [--port 5000]
set -euo pipefail
. "$(dirname "$0")/environment.sh"
[ -f mlruns/mlflow.db ] || { echo "error: no mlruns/mlflow.db in $PWD; scripts/train.sh makes one" >&2; exit 2; }
python -c 'from pathlib import Path; from genre_cls.database import rewrite_locations; rewrite_locations(Path("mlruns").resolve())'
port=5000
[[ " $* " =~ \ (--port|-p)[=\ ]([0-9]+) ]] && port=${BASH_REMATCH[2]}
if (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
    echo "error: 127.0.0.1:$port: address already in use; choose another --port" >&2
    exit 2
fi
echo "open http://127.0.0.1:$port/#/experiments?workflowType=machine_learning" >&2
exec mlflow ui --backend-store-uri "sqlite:///$PWD/mlruns/mlflow.db" --host 127.0.0.1 --workers 1 "$@"  # the default four take twice as long to start
