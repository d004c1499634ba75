#!/usr/bin/env bash
# Gets GTZAN from a mirror, 1.2 GB, and goes on where it was cut off: scripts/download_gtzan.sh /data/gtzan
set -euo pipefail
. "$(dirname "$0")/environment.sh"
exec python -m genre_cls.download "$@"
