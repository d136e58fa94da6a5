#!/bin/sh
# Install a wheel in an empty environment that no compiler can be reached from, and
# test it there: the README and what scripts/installed.py looks at with nothing but
# the dependencies, then the conformance suite and the codec's tests.
#
#     scripts/test-wheel.sh PYTHON WHEEL [--uncompiled]
#
# A wheel that was made without a compiler has no C modules: --uncompiled expects that.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
python=$1
wheel=$(realpath "$2")
shift 2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$python" -m venv "$work/venv"
mkdir "$work/bin" # with all that may be run beside it
for tool in sh setpriv redis-server; do
    ln -s "$(command -v "$tool")" "$work/bin/$tool"
done
# sealed COMMAND...: run it where neither a compiler nor this tree is found.
sealed() {
    env -u PYTHONPATH "PATH=$work/venv/bin:$work/bin" CC=false CXX=false "$@"
}
install() {
    sealed python -m pip install --quiet --disable-pip-version-check --only-binary :all: "$@"
}

# The tests, without the sources beside them.
mkdir "$work/tree" "$work/tree/docs"
cp -r "$root/tests" "$root/README.md" "$root/pyproject.toml" "$work/tree"
cp -r "$root/docs/plugin-example" "$work/tree/docs"
cd "$work/tree"

install "$wheel"
sealed python "$root/scripts/installed.py" README.md "$@"
[ $# -eq 0 ] || exit 0
install "${wheel}[redis,testing]" pytest-timeout
# One suite per backend; the other ones go by the same verbs.
sealed pytest -q -p no:cacheprovider \
    tests/conformance/test_file.py tests/conformance/test_memory.py tests/conformance/test_redis.py \
    tests/conformance/test_shm.py tests/conformance/test_sqlite.py \
    tests/property/test_codec.py tests/unit/test_values.py tests/unit/test_native.py
