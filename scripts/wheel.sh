#!/bin/sh
# Build the wheel in dist/ from scratch: `wheel.sh [python]`.
set -eu
python=${1:-python3}
rm -rf build dist
# Use the locked setuptools if it is installed; otherwise pip downloads one.
here=$("$python" -c 'import setuptools as s; print(int(s.__version__.split(".")[0]) >= 77 or "")' \
    2>/dev/null) || here=
"$python" -m pip wheel --quiet --disable-pip-version-check --no-deps \
    ${here:+--no-build-isolation} --wheel-dir dist .
# A deployment derives the wheel's version from its modification time. The time of the commit gives
# each commit one version, so deploying it again changes nothing; uncommitted code always gets a new one.
if [ -z "$(git status --porcelain -- src pyproject.toml README.md LICENSE 2>&1)" ]; then
    "$python" -c 'import os, sys; os.utime(sys.argv[1], (int(sys.argv[2]),) * 2)' \
        dist/*.whl "$(git log -1 --format=%ct)"
fi
