#!/bin/sh
# The wheel in dist/, from nothing: `wheel.sh [python] [more options of pip wheel]`.
set -eu
python=${1:-python3}
[ $# -eq 0 ] || shift
rm -rf build dist
"$python" -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist "$@" .
# A deployment versions the wheel by its time. That of the commit gives one commit one version, so
# that deploying it again changes nothing; what is not committed yet gets a new one each time.
if [ -z "$(git status --porcelain -- src pyproject.toml README.md LICENSE 2>&1)" ]; then
    "$python" -c 'import os, sys; os.utime(sys.argv[1], (int(sys.argv[2]),) * 2)' \
        dist/*.whl "$(git log -1 --format=%ct)"
fi
