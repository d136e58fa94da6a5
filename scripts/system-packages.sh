#!/bin/sh
# Install the Debian packages that the build and the tests need, and say which.
#
#     scripts/system-packages.sh [servers] [browser] [bench] [torture]
#
# With "servers" also Apache and mod_wsgi, with "browser" a browser, both for tests/servers;
# with "bench" the servers that benchmarks/ compares with, with "torture" a fuzzer and valgrind.
# Installs only what is missing.  Elsewhere than on Debian, or without root, it
# says what is needed and goes on: the tools may be there under another name.
set -eu

needed="gcc libc6-dev make cmake ninja-build python3-venv python3-dev redis-server openssl iproute2"
for more in "$@"; do
    case $more in
    servers) needed="$needed apache2 libapache2-mod-wsgi-py3 apache2-dev" ;;
    browser) needed="$needed chromium" ;;
    bench) needed="$needed memcached" ;;
    torture)
        # Debian 12 names its only clang with a number, and so the runtime that fuzzing needs; later ones have both without.
        case $(. /etc/os-release 2>/dev/null && echo "${VERSION_CODENAME:-}") in
        bookworm) needed="$needed clang-14 libclang-rt-14-dev valgrind" ;;
        *) needed="$needed clang libclang-rt-dev valgrind" ;;
        esac
        ;;
    *)
        echo "There are no packages called '$more'." >&2
        exit 1
        ;;
    esac
done

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

# Tests and benchmarks start servers of their own; a machine that had none must not
# get one that listens on port 80, or another, now or after the next boot.  Masking is
# what `systemctl mask apache2` does, and works where systemd is not running.
policy=/usr/sbin/policy-rc.d
for service in apache2 redis-server memcached; do
    case " $missing " in
    *" $service "*)
        echo "$service is installed to be started by hand: its system service is masked, not started (systemctl unmask $service undoes it)"
        mkdir -p /etc/systemd/system
        [ -e "/etc/systemd/system/$service.service" ] || ln -s /dev/null "/etc/systemd/system/$service.service"
        if [ ! -e "$policy" ]; then
            trap 'rm -f "$policy"' EXIT
            printf '#!/bin/sh\nexit 101\n' >"$policy"
            chmod 755 "$policy"
        fi
        ;;
    esac
done

export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# shellcheck disable=SC2086  # a list of words
apt-get install -y -qq --no-install-recommends $missing >/dev/null
