#!/bin/sh
# The wheel in dist/, from nothing: `wheel.sh [python]`.
set -eu
python=${1:-python3}
rm -rf build dist
# The locked setuptools where that is installed, else pip fetches one.
here=$("$python" -c 'import setuptools as s; print(int(s.__version__.split(".")[0]) >= 77 or "")' \
    2>/dev/null) || here=
"$python" -m pip wheel --quiet --disable-pip-version-check --no-deps \
    ${here:+--no-build-isolation} --wheel-dir dist .
# A deployment versions the wheel by its time. That of the commit gives one commit one version, so
# that deploying it again changes nothing; what is not committed yet gets a new one each time.
if [ -z "$(git status --porcelain -- src pyproject.toml README.md LICENSE 2>&1)" ]; then
    "$python" -c 'import os, sys; os.utime(sys.argv[1], (int(sys.argv[2]),) * 2)' \
        dist/*.whl "$(git log -1 --format=%ct)"
fi
