#!/usr/bin/env bash
# Open MLflow on a folder of runs, on this machine only: scripts/ui.sh [FOLDER, default mlruns] [--port 5000]
set -euo pipefail
if [[ ${1:-} =~ ^(-h|--help)$ ]]; then
    sed -n '2s/^# //p' "$0"
    exit
fi
. "$(dirname "$0")/environment.sh"
folder=mlruns
[[ ${1:--} != -* ]] && folder=$1 && shift
if [ -f "${!#}/mlflow.db" ]; then
    echo "error: ${!#}: must come before the options, as in scripts/ui.sh FOLDER --port 5000" >&2
    exit 2
fi
[ -f "$folder/mlflow.db" ] || { echo "error: $folder: has no mlflow.db; scripts/train.sh makes one in mlruns" >&2; exit 2; }
folder=$(CDPATH='' cd -- "$folder" && pwd -P)
python -c 'import sys; from pathlib import Path; from genre_cls.tracking.database import rewrite_locations; rewrite_locations(Path(sys.argv[1]))' "$folder"
port=5000
[[ " $* " =~ \ (--port|-p)[=\ ]([0-9]+) ]] && port=${BASH_REMATCH[2]}
if (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
    echo "error: 127.0.0.1:$port: address already in use; choose another --port" >&2
    exit 2
fi
echo "starting MLflow, which takes some seconds; then open http://127.0.0.1:$port/#/experiments?workflowType=machine_learning" >&2
exec mlflow ui --backend-store-uri "sqlite:///$folder/mlflow.db" --host 127.0.0.1 --workers 1 "$@"  # the default four take twice as long to start
