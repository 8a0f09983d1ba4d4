#!/bin/sh
# The original repository's name for download_data.py, with the same options.
exec "${PYTHON:-python}" "$(dirname "$0")/download_data.py" "$@"
