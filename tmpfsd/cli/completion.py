"""completion.py: tmpfsctl completion: what bash or zsh needs to complete tmpfsd and tmpfsctl.

Derived from the parsers by shtab, and the mount options from options.py: there is nothing to keep in step.
bash: the output is a file for /etc/bash_completion.d, or `source <(tmpfsctl completion bash)`.  zsh: the latter.
"""

from __future__ import annotations

import argparse

from tmpfsd.cli import mount
from tmpfsd.options import BACKENDS, FLAGS, GENERIC, VALUED

EPILOG = """\
example:
  tmpfsctl completion bash > /etc/bash_completion.d/tmpfsd

exit status:
  0  done             1  refused or failed: one line on stderr says why"""
SHELLS = ("bash", "zsh")
WORDS = {"backend": BACKENDS, "swap_io": ("buffered", "direct"), "submap": ("auto",), "spin": ("auto",),
         "submap_sharing": ("shared", "per-pool"), "swap": ("none",)}
BASH = """
_tmpfsd_options() {
  local list="${1%%,*}"
  if [ "$list" != "$1" ]; then list="${1%,*},"; else list=""; fi
  compgen -P "$list" -W "WORDS" -- "${1##*,}"
}
"""
ZSH = """
_tmpfsd_options() {
  _values -s , 'mount option' WORDS
}
"""
PATHS = {"path": "FILE", "mountpoint": "DIRECTORY", "paths": "DIRECTORY", "tree": "DIRECTORY",
         "root": "DIRECTORY"}


def option_words() -> list[str]:
    """Every mount option, as it is begun to be written."""
    words = [f"{name}={word}" for name in VALUED for word in WORDS.get(name, ("",))]
    return sorted({*words, *FLAGS, *GENERIC} - {"default_permissions"})


def mark(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Say which arguments are files, directories and mount options, of a parser and all that it has."""
    import shtab
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                mark(command)
        elif action.dest == "options":
            setattr(action, "complete", {shell: "_tmpfsd_options" for shell in SHELLS})
        elif action.dest in PATHS:
            setattr(action, "complete", getattr(shtab, PATHS[action.dest]))
    return parser


def script(shell: str) -> str:
    """The completion of both commands."""
    import shtab

    from tmpfsd.cli import ctl
    helper = (BASH.replace("WORDS", " ".join(option_words())) if shell == "bash" else
              ZSH.replace("WORDS", " ".join(f"'{word}'" for word in option_words() if "=" not in word)))
    parts = [shtab.complete(mark(mount.make_parser()), shell, root_prefix="tmpfsd", preamble=helper),
             shtab.complete(mark(ctl.make_parser()), shell, root_prefix="tmpfsctl")]
    return "\n".join(parts)


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Describe the command line of completion."""
    command.add_argument("shell", choices=SHELLS)


def run(args: argparse.Namespace) -> None:
    """tmpfsctl completion."""
    print(script(args.shell))
