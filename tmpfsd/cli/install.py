"""install.py: tmpfsctl install: what only root can put in the system's directories.

/sbin/mount.fuse.tmpfsd, for mount(8) and fstab, is a link to the command tmpfsd of this installation; the unit
template tmpfsd@.service serves a mount for each instance: `systemctl start tmpfsd@scratch` one at /scratch.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import stat
import sys

from tmpfsd.cli import streams
from tmpfsd.cli.client import ClientError

EPILOG = """\
example:
  tmpfsctl install

exit status:
  0  done             1  refused or failed: one line on stderr says why"""
HELPER = "sbin/mount.fuse.tmpfsd"
UNIT = "etc/systemd/system/tmpfsd@.service"
TEMPLATE = """\
[Unit]
Description=tmpfsd at %f
Documentation=man:tmpfsd(8)
After=local-fs.target
RequiresMountsFor=/var/tmp

[Service]
Type=notify
ExecStartPre=/bin/mkdir -p %f
# OPTIONS=ram=1g,size=20g in this file; the instance is the path as systemd-escape --path writes it.
Environment=OPTIONS=ram=128m
EnvironmentFile=-/etc/tmpfsd/%i.conf
ExecStart={command} tmpfsd %f -f -o ${{OPTIONS}}
# What is in it is gone when it ends: it is not started again by itself.
Restart=no
TimeoutStopSec=30
# Only what needs no mount namespace of the unit's own: in one of its own, nobody else would see the mount.
# To mount and unmount; to open the swap file and the mount point wherever they are; to be the last that is killed when
# memory is short, and not to wait for itself; to give up groups.  Once it has mounted it keeps only the first.
CapabilityBoundingSet=CAP_SYS_ADMIN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_SYS_RESOURCE CAP_SETGID
DevicePolicy=closed
DeviceAllow=/dev/fuse rw
DeviceAllow=/dev/cpu_dma_latency w
DeviceAllow=block-* rw
LockPersonality=yes
NoNewPrivileges=yes
ProtectClock=yes
ProtectHostname=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallErrorNumber=EPERM
SystemCallFilter=@system-service @mount
UMask=0077

[Install]
WantedBy=multi-user.target
"""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Describe the command line of install."""
    command.add_argument("--remove", action="store_true", help="remove what this command installed")
    command.add_argument("--root", default="/", metavar="DIR", help="install below DIR, for packages")
    command.add_argument("--program", metavar="PATH", help="the command tmpfsd to use (default: the one beside this)")
    command.add_argument("--json", action="store_true", help="print JSON, for scripts")


def command_path() -> str:
    """The command tmpfsd of this installation."""
    beside = os.path.join(os.path.dirname(os.path.abspath(sys.argv[0])), "tmpfsd")
    found = beside if os.access(beside, os.X_OK) else shutil.which("tmpfsd")
    if found is None:
        raise ClientError("there is no command tmpfsd, neither beside this one nor in PATH")
    return found


def place(path: str) -> None:
    """Make room for a file of ours: other people's files stay."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if os.path.islink(path) and os.path.basename(os.readlink(path)) == "tmpfsd":
        os.unlink(path)
    elif os.path.lexists(path) and not is_ours(path):
        raise ClientError(f"{path}: exists, and does not belong to tmpfsd")


def is_ours(path: str) -> bool:
    """Tell whether a unit was written here."""
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.readline() + file.readline() == "".join(TEMPLATE.splitlines(keepends=True)[:2])


def writable_by_others(path: str) -> str:
    """The first file or directory on the way to a command that anyone but root can write to, or ""."""
    path, ways = os.path.realpath(path), []
    while os.path.exists(path):
        ways.append(path)
        if path == "/":
            break
        path = os.path.dirname(path)
    for way in reversed(ways):
        state = os.stat(way)
        shared = state.st_mode & (0o022 if state.st_gid else 0o002)
        if state.st_uid or shared and not state.st_mode & stat.S_ISVTX:
            return way
    return ""


def run(args: argparse.Namespace) -> None:
    """tmpfsctl install."""
    helper, unit = (os.path.join(args.root, path) for path in (HELPER, UNIT))
    if args.remove:
        removed: list[str] = []
        for path in (helper, unit):
            if os.path.lexists(path):
                place(path)
                if os.path.lexists(path):
                    os.unlink(path)
                removed.append(path)
                if not args.json:
                    print(f"removed {path}")
        if args.json:
            print(json.dumps({"removed": removed}, indent=2))
        return
    command = args.program or command_path()
    if not os.path.isabs(command):
        raise ClientError(f"{command}: must be an absolute path")
    place(helper)
    os.symlink(command, helper)
    place(unit)
    with open(unit, "w", encoding="utf-8") as file:
        file.write(TEMPLATE.format(command=command))
    print(json.dumps({"helper": helper, "command": command, "unit": unit}, indent=2) if args.json
          else f"{helper} -> {command}\n{unit}")
    weak = writable_by_others(command)
    if weak:
        streams.complain(f"tmpfsctl: warning: {weak} can be changed by others than root, who could have it do "
                         "anything as root at the next mount")
