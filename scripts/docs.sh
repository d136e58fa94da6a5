#!/bin/sh
# Build the documentation site into build/site, in an environment of its own.
#
#     scripts/docs.sh [PYTHON]
#
# The reference is read from the sources, which are not imported: the library is
# neither built nor installed for it.  A link that leads nowhere fails the build,
# and so does a page that would load anything from another host.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
venv=$("$root/scripts/tools.sh" docs "$@")
cd "$root"
# Material says at each start that it ends in May 2027, and names its successor, Zensical.
NO_MKDOCS_2_WARNING=1 "$venv/bin/mkdocs" build --strict --quiet
echo "The site is in build/site: open build/site/index.html, or, to search in it, run"
echo "    python3 -m http.server --bind 127.0.0.1 --directory build/site 8000"
