#!/usr/bin/env bash
# Build a Debian package from what `make install` installs: deb.sh DIRECTORY.  Called by the Makefile; needs dpkg-deb.
# It holds the libraries that it needs, built for this machine's Python: it is for the release it was built on.
set -euo pipefail

into=$1
version=$(sed -n 's/^__version__ = "\(.*\)"/\1/p' tmpfsd/__init__.py)
umask 022
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
chmod 755 "$stage"

# /sbin is a link to usr/sbin where such packages go.
mkdir -p "$stage/usr/sbin"
ln -s usr/sbin "$stage/sbin"
tools/install.sh install /usr "$stage" > /dev/null
rm "$stage/sbin"
mkdir -p "$stage/usr/lib/systemd"
mv "$stage/etc/systemd/system" "$stage/usr/lib/systemd/system"
rmdir "$stage/etc/systemd" "$stage/etc"
find "$stage" -name __pycache__ -type d -prune -exec rm -rf {} +
gzip -9n "$stage"/usr/share/man/man8/*.8
mkdir -p "$stage/usr/share/doc/tmpfsd"
cp LICENSE "$stage/usr/share/doc/tmpfsd/copyright"

python=$(sed -n '1s/^#!\(\S*\).*/\1/p' "$stage/usr/sbin/tmpfsd")
package=$(dpkg-query -S "$python" 2>/dev/null | cut -d: -f1)
mkdir "$stage/DEBIAN"
cat > "$stage/DEBIAN/control" <<END
Package: tmpfsd
Version: $version
Architecture: $(dpkg --print-architecture)
Maintainer: the tmpfsd authors <tmpfsd@localhost>
Depends: fuse3${package:+, ${package%-minimal}}
Section: admin
Priority: optional
Installed-Size: $(du -sk "$stage" | cut -f1)
Description: tmpfs whose data and metadata page out
 A FUSE file system with a hard budget of memory.  What is over the budget is
 paged to disk, and comes back when it is used.
END
cat > "$stage/DEBIAN/prerm" <<'END'
#!/bin/sh
# What Python compiled beside the modules.
set -e
find /usr/lib/tmpfsd -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
END
chmod 755 "$stage/DEBIAN/prerm"
file=$into/tmpfsd_${version}_$(dpkg --print-architecture).deb
dpkg-deb --root-owner-group --build "$stage" "$file" > /dev/null
echo "$file"
