#!/usr/bin/env bash
# Set up what tmpfsd needs: setup.sh run|test VENV.  Called by the Makefile; installs system packages only as root
# and only what is missing, and otherwise says what to install.
set -euo pipefail

what=$1
venv=$2

# command or file that shows it is there -> package
need=("fusermount3 fuse3" "pkg-config pkg-config" "cc gcc" "fuse3.pc libfuse3-dev" "venv python3-venv" "Python.h python3-dev")
if [ "$what" = test ]; then
    need+=("git git" "rsync rsync" "sqlite3 sqlite3" "fio fio" "stress-ng stress-ng" "setfattr attr" "setfacl acl"
           "mkfs.ext4 e2fsprogs" "tar tar" "zsh zsh")
fi

# A python3 that can make a virtual environment and has the headers of its own version.
usable() { "$1" -c '
import ensurepip, os, sys, sysconfig, venv
ok = sys.version_info >= (3, 11) and os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h"))
sys.exit(not ok)' 2>/dev/null; }

# Whether other users may execute it: the tests of mounts without root need that.
open_to_all() {
    local path
    path=$(readlink -f "$(command -v "$1")") || return 1
    while [ "$path" != / ]; do
        (( 0$(stat -c %a "$path") & 1 )) || return 1
        path=$(dirname "$path")
    done
}

# The first that is usable and that other users may execute, else the first that is usable.
find_python() {
    local candidate first=""
    for candidate in python3 /usr/bin/python3 python3.13 python3.12 python3.11; do
        usable "$candidate" || continue
        if open_to_all "$candidate"; then command -v "$candidate"; return; fi
        first=${first:-$candidate}
    done
    [ -n "$first" ] && command -v "$first"
}

there() {
    case $1 in
        fuse3.pc) pkg-config --exists fuse3 2>/dev/null ;;
        venv | Python.h) find_python >/dev/null ;;
        *) command -v "$1" >/dev/null ;;
    esac
}

missing() {
    local pair
    for pair in "${need[@]}"; do
        there "${pair% *}" || printf '%s\n' "${pair#* }"
    done | sort -u | tr '\n' ' '
}

packages=$(missing)
if [ -n "$packages" ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "Installing: $packages"
        export DEBIAN_FRONTEND=noninteractive
        apt-get -qq update
        # shellcheck disable=SC2086
        apt-get -qq install -y --no-install-recommends $packages >/dev/null
        packages=$(missing)
    fi
    if [ -n "$packages" ]; then
        echo "Missing: $packages" >&2
        echo "Install them, as root: apt-get install $packages" >&2
        echo "(Python must be 3.11 or newer, with the headers of its own version.)" >&2
        exit 1
    fi
fi

python=$(find_python)
if [ ! -x "$venv/bin/python" ] || ! usable "$venv/bin/python"; then
    rm -rf "$venv"
    "$python" -m venv "$venv"
fi
extras=""
[ "$what" = test ] && extras="[test,fuzz,tools,lint]"
pip() { "$venv/bin/python" -m pip --quiet --disable-pip-version-check install "$@"; }
# What pyproject.toml wants for a build, here to stay: `make compile` needs it again after each change.
pip --upgrade "setuptools >= 64" wheel
pip "mypy >= 2" || echo "No mypy: what is installed will run interpreted." >&2
# Built apart from what is here: pyfuse3 wants a newer setuptools than Debian 12 puts into a virtual environment.
TMPFSD_PURE=1 pip -e ".$extras"
