#!/usr/bin/env bash
# Predict the genres of your own music: scripts/predict.sh song.mp3 /data/music
set -euo pipefail
. "$(dirname "$0")/environment.sh"
exec python -m genre_cls.predict "$@"
