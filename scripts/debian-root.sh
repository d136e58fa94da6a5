#!/bin/sh
# Run a command in a Debian of another suite, or in a fresh one of the same: as
# root, in a root directory of its own, with a copy of this tree.
#
#     scripts/debian-root.sh SUITE COMMAND...        e.g. scripts/debian-root.sh forky scripts/test-modern.sh
#
# The root is made once, under /var/cache/sharedstate (SHAREDSTATE_ROOTS names
# another place), and keeps what the command installs there; remove it with
# rm -r to begin anew.  The tree is copied each time, to /srv/sharedstate; its
# environments and builds stay from run to run.
#
# The command has process numbers and mounts of its own: when it ends, all that
# it started ends, and no mount is left.
set -eu

suite=${1:?SUITE}
shift
tree=$(cd "$(dirname "$0")/.." && pwd)
root=${SHAREDSTATE_ROOTS:-/var/cache/sharedstate}/$suite

[ "$(id -u)" -eq 0 ] || {
    echo "A root directory of another Debian can only be made and entered by root." >&2
    exit 1
}
command -v debootstrap >/dev/null || {
    echo "Installing Debian packages: debootstrap"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends debootstrap >/dev/null
}
mkdir -p "$(dirname "$root")"
exec 9>"$root.lock"
flock 9

if [ ! -d "$root" ]; then
    # The mirror that this machine uses; a suite that debootstrap does not know yet is made as sid is.
    mirror=$(apt-get indextargets --format '$(ORIGIN)|$(LABEL)|$(REPO_URI)' 'Created-By: Packages' |
        sed -n 's/^Debian|Debian|//p' | head -n 1)
    [ -e "/usr/share/debootstrap/scripts/$suite" ] && script=$suite || script=sid
    echo "Making a root of Debian $suite in $root"
    rm -rf "$root.new"
    debootstrap --variant=minbase --include=ca-certificates "$suite" "$root.new" "$mirror" "$script" >"$root.log" 2>&1 || {
        tail -n 20 "$root.log" >&2
        exit 1
    }
    mv "$root.new" "$root"
fi

# What this machine needs to reach its package sources, the root needs too.
for path in /etc/resolv.conf /etc/hosts /etc/pip.conf /etc/xdg/pip /root/.config/pip /etc/apt/apt.conf.d \
    /etc/ssl/certs/ca-certificates.crt; do
    [ ! -e "$path" ] || { mkdir -p "$root$(dirname "$path")" && cp -rfL "$path" "$root$(dirname "$path")/"; }
done

copy=$root/srv/sharedstate
mkdir -p "$copy"
find "$copy" -mindepth 1 -maxdepth 1 ! -name .venv ! -name build -exec rm -rf {} +
tar -C "$tree" --exclude=./.venv --exclude=./build --exclude=./.git --exclude='*.so' --exclude=__pycache__ -cf - . |
    tar -C "$copy" -xf -

# The shell stays, as process 1, to bury the servers' orphans.
unshare --mount --pid --fork --kill-child sh -eu -c '
    root=$1
    shift
    mount --rbind /dev "$root/dev"
    mount -t tmpfs tmpfs "$root/dev/shm"
    mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
    mount -t proc proc "$root/proc"
    env -u PYENV_ROOT HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 \
        chroot "$root" sh -c "cd /srv/sharedstate && \"\$@\"; exit \$?" sh "$@"
    exit $?
' sh "$root" "$@" 9>&-
