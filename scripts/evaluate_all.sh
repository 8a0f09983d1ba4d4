#!/bin/sh
# The original repository's name for evaluate_all.py, with the same options.
exec "${PYTHON:-python}" "$(dirname "$0")/evaluate_all.py" "$@"
