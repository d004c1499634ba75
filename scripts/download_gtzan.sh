#!/usr/bin/env bash
# Download GTZAN from a mirror (1.2 GB), resuming a download that broke off: scripts/download_gtzan.sh /data/gtzan
set -euo pipefail
. "$(dirname "$0")/environment.sh"
exec python -m genre_cls.download "$@"
