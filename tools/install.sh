#!/usr/bin/env bash
# Put tmpfsd into a prefix, or take it away: install.sh install|uninstall PREFIX [DESTDIR].  Called by the Makefile.
#
#   PREFIX/lib/tmpfsd     the package and the libraries that it needs: nothing else of this machine's Python is touched
#   PREFIX/sbin           tmpfsd and tmpfsctl, which look for it beside themselves
#   PREFIX/share          manual pages and what bash, fish and zsh complete
#   /sbin, /etc/systemd   the helper of mount(8) and a unit, by `tmpfsctl install`
#
# All of it goes below DESTDIR, where one is given, and may be moved from there to /.
set -euo pipefail

what=$1
prefix=$2
root=${3:-}
case $prefix in
    *[[:space:]]*) echo "PREFIX=$prefix: a unit of systemd cannot name a command with blanks" >&2; exit 1 ;;
    /*) ;;
    *) echo "PREFIX=$prefix: must be an absolute path" >&2; exit 1 ;;
esac
prefix=${prefix%/}
stage=$root$prefix
venv=.venv
pages="tmpfsd.8 tmpfsctl.8"
completions="share/bash-completion/completions/tmpfsd share/bash-completion/completions/tmpfsctl
             share/zsh/site-functions/_tmpfsd
             share/fish/vendor_completions.d/tmpfsd.fish share/fish/vendor_completions.d/tmpfsctl.fish"

ctl() { "$venv/bin/python" -c 'from tmpfsd.cli.ctl import main; raise SystemExit(main())' "$@"; }

launcher() {
    cat <<END
#!$1 -I
"""tmpfsd, installed by \`make install\`."""
import os
import sys

here = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
sys.path.insert(0, os.path.join(here, "lib", "tmpfsd"))
from $2 import main

sys.exit(main())
END
}

install_all() {
    local python
    # The interpreter that .venv was made of, for .venv may go.
    python=$("$venv/bin/python" -c 'import os, sys; print(os.path.realpath(sys._base_executable))')
    mkdir -p "$stage/lib" "$stage/sbin" "$stage/share/man/man8"
    new=$(mktemp -d "$stage/lib/.tmpfsd.XXXXXX")
    trap 'rm -rf "$new"' EXIT
    chmod 755 "$new"
    "$venv/bin/python" -m pip --quiet --disable-pip-version-check install --no-build-isolation \
        --target "$new" .
    rm -rf "$new/bin" "$new/share"
    rm -rf "$stage/lib/tmpfsd"
    mv "$new" "$stage/lib/tmpfsd"
    launcher "$python" tmpfsd.cli.mount > "$stage/sbin/tmpfsd"
    launcher "$python" tmpfsd.cli.ctl > "$stage/sbin/tmpfsctl"
    chmod 755 "$stage/sbin/tmpfsd" "$stage/sbin/tmpfsctl"
    for page in $pages; do install -m 644 "tools/man/$page" "$stage/share/man/man8/"; done
    for file in $completions; do
        mkdir -p "$(dirname "$stage/$file")"
        case $file in *zsh*) shell=zsh ;; *fish*) shell=fish ;; *) shell=bash ;; esac
        ctl completion "$shell" > "$stage/$file"
    done
    ctl install --root "${root:-/}" --program "$prefix/sbin/tmpfsd"
}

uninstall_all() {
    if [ -x "$stage/sbin/tmpfsctl" ]; then "$stage/sbin/tmpfsctl" install --remove --root "${root:-/}"; fi
    for page in $pages; do rm -f "$stage/share/man/man8/$page"; done
    for file in $completions; do rm -f "$stage/$file"; done
    rm -f "$stage/sbin/tmpfsd" "$stage/sbin/tmpfsctl"
    rm -rf "$stage/lib/tmpfsd"
}

umask 022
case $what in
    install) install_all; echo "Installed in $stage; undone by: make uninstall PREFIX=$prefix${root:+ DESTDIR=$root}" ;;
    uninstall) uninstall_all ;;
    *) echo "install.sh install|uninstall PREFIX [DESTDIR]" >&2; exit 1 ;;
esac
