#!/bin/sh
# Check style, types and layers with the tools of one virtual environment.
#
#     scripts/lint.sh VENV
set -eu

cd "$(dirname "$0")/.."
bin=$1/bin
"$bin/ruff" check .
"$bin/ruff" format --check .
"$bin/lint-imports" --no-logo
"$bin/mypy"
"$bin/pyright" --pythonpath "$bin/python"
