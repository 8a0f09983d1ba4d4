#!/bin/sh
# check_versions.py, with the same options.
exec "${PYTHON:-python}" "$(dirname "$0")/check_versions.py" "$@"
