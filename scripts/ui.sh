#!/usr/bin/env bash
# Opens MLflow on mlruns/, on this machine alone: scripts/ui.sh [--port 5000]
set -euo pipefail
. "$(dirname "$0")/environment.sh"
exec mlflow ui --backend-store-uri "sqlite:///$PWD/mlruns/mlflow.db" --host 127.0.0.1 "$@"
