#!/bin/sh
# Install the Debian packages that the build and the tests need, and say which.
#
#     scripts/system-packages.sh
#
# Installs only what is missing.  Elsewhere than on Debian, or without root, it
# says what is needed and goes on: the tools may be there under another name.
set -eu

needed="gcc libc6-dev make cmake ninja-build python3-venv python3-dev"

command -v dpkg-query >/dev/null || {
    echo "Not a Debian system: a C compiler, cmake, ninja and Python's headers must be there." >&2
    exit 0
}

missing=
for package in $needed; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" -ne 0 ]; then
    echo "Missing Debian packages:$missing" >&2
    echo "Run as root: apt-get install$missing" >&2
    exit 0
fi
echo "Installing Debian packages:$missing"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# shellcheck disable=SC2086  # a list of words
apt-get install -y -qq --no-install-recommends $missing >/dev/null
