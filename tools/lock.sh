#!/bin/sh
# Renews the locked versions from requirements/*.in for every supported Python; needs uv.
set -e
cd "$(dirname "$0")/../requirements"
lock() { uv pip compile --quiet --universal --python-version 3.10 --no-annotate \
    --custom-compile-command tools/lock.sh "$@"; }
lock python.in --output-file python.txt
lock ros.in --constraint python.txt --output-file ros.txt
