#!/usr/bin/env bash
# Train: scripts/train.sh -m features=mfcc,mel model=basic,deep
set -euo pipefail
. "$(dirname "$0")/environment.sh"
exec python -m genre_cls.train "$@"
