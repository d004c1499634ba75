#!/usr/bin/env bash
# Opens MLflow on mlruns/, on this machine alone: scripts/ui.sh [--port 5000]
set -euo pipefail
. "$(dirname "$0")/environment.sh"
echo "open http://127.0.0.1:5000/#/experiments?workflowType=machine_learning" >&2
exec mlflow ui --backend-store-uri "sqlite:///$PWD/mlruns/mlflow.db" --host 127.0.0.1 "$@"
