"""completion.py: completion of tmpfsd and tmpfsctl in bash, fish and zsh, by argcomplete.

Picture     TAB -> the function that `tmpfsctl completion` prints -> the command itself, with _ARGCOMPLETE in its
            environment -> autocomplete(parser): the words that may follow, and the end of the process
Invariants  C1 TAB waits for no mount: it reads only /proc/self/mountinfo about mounts, and gives up on a directory or
               symbolic link that does not answer after SECONDS.
            C2 A name that cannot be printed is not offered: some of its characters would end a word.
Limits      After a $VARIABLE bash offers only directories: only bash itself knows the variables.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import threading
from collections.abc import Callable, Iterator

from tmpfsd.mounts import mountinfo
from tmpfsd.options import BACKENDS, FLAGS, GENERIC, VALUED, quote, split

EPILOG = """\
example:
  tmpfsctl completion bash > /etc/bash_completion.d/tmpfsd

Without root: source <(tmpfsctl completion bash), or zsh, in ~/.bashrc or ~/.zshrc.  For zsh it may also be a file
_tmpfsd in a directory of fpath.  For fish: tmpfsctl completion fish > ~/.config/fish/completions/tmpfsctl.fish, and
the same as tmpfsd.fish.  At each TAB it asks the commands, which must be in PATH.  It stays valid after an update.

exit status:
  0  done             1  refused or failed: one line on stderr says why"""
SHELLS = ("bash", "fish", "zsh")
SECONDS = 0.5
# The words that a mount option may have; those of PATHS have paths.
WORDS: dict[str, tuple[str, ...]] = {
    "backend": BACKENDS, "swap_crypt": ("off", "on"), "swap_io": ("buffered", "direct"), "submap": ("auto",),
    "spin": ("auto",), "awake": ("auto", "on", "off"), "compress": ("none", "zstd"),
    "edge": ("auto", "native", "pyfuse3"),
    "submap_sharing": ("shared", "per-pool"), "swap": ("none",)}
PATHS = ("swap", "metrics", "image")
# Goes around what argcomplete prints, because it takes zsh's whole line for one command, though a `sudo` or another
# command may come first; escapes ~ and $; and assumes that compinit has run.  In a function its text calls what it
# defines.
# zsh's own bashcompinit, with what argcomplete prints for bash, was tried: it completes 32 of the 35 lines of
# test_shells.py; ~/x becomes \~/x, and words that begin with $ or a quote are not completed.
ZSH = """\
#compdef tmpfsd tmpfsctl
_tmpfsd() {
  [[ $PREFIX != [~$]* ]] || { _files; return }
  local -h BUFFER="${(j: :)words[1,CURRENT-1]} $QIPREFIX$PREFIX"
  local -h CURSOR=$#BUFFER
CODE
}
if [[ $zsh_eval_context == *func ]]; then       # a file of fpath, as it is used first
  _tmpfsd "$@"
else
  (( $+functions[compdef] )) || { autoload -Uz compinit && compinit -i }
  compdef _tmpfsd tmpfsd tmpfsctl
fi
"""


def script(shell: str) -> str:
    """The completion of both commands."""
    import argcomplete  # takes 20 ms, which no other command need wait for
    code = argcomplete.shellcode(["tmpfsd", "tmpfsctl"], shell=shell,
                                 complete_arguments=["-o nospace", "-o dirnames"])      # of bash, where we find nothing
    return ZSH.replace("CODE", code) if shell == "zsh" else code


# what may follow: each takes the beginning of a word, and returns whole words

def look(prefix: str, files: bool) -> Iterator[str]:
    """The paths that begin so.  argcomplete's own does not know ~, and looks at each directory, mounted or not."""
    base = os.path.basename(prefix)
    with os.scandir(os.path.expanduser(prefix.removesuffix(base)) or ".") as entries:
        for entry in entries:
            if entry.name.isprintable() and entry.name.startswith(base) and (base or not entry.name.startswith(".")):
                if (directory := entry.is_dir()) or files:
                    yield prefix.removesuffix(base) + entry.name + ("/" if directory else "")


def paths(prefix: str, files: bool = True, **_known: object) -> list[str]:
    """The paths that begin so, in a thread that can be left behind (C1)."""
    found: list[str] = []

    def fill() -> None:
        with contextlib.suppress(OSError):      # there is nothing to offer
            found.extend(look(prefix, files))

    thread = threading.Thread(target=fill, daemon=True)
    thread.start()
    thread.join(SECONDS)
    return [prefix or "./"] if thread.is_alive() else found         # not nothing: bash would look there itself


def directories(prefix: str, **_known: object) -> list[str]:
    """The directories that begin so."""
    return paths(prefix, files=False)


def mountpoints(prefix: str, **_known: object) -> list[str]:
    """The tmpfsds that are mounted, and directories, which may be given relative to here."""
    mounted = {mount.path for mount in mountinfo.table()
               if mount.fstype == mountinfo.FSTYPE and mount.path.isprintable()}
    if mounted and not prefix:
        return sorted(mounted)
    return sorted(mounted) + [path for path in directories(prefix) if path.rstrip("/") not in mounted]


def option_words() -> list[str]:
    """Every mount option, as one begins to write it."""
    return sorted({*(f"{name}=" for name in VALUED), *FLAGS, *GENERIC} - {"default_permissions"})


def mount_options(prefix: str, **_known: object) -> list[str]:
    """The mount options that may end a comma list."""
    before, last = re.findall(r"((?:(?:[^,\\]|\\.)*,)*)(.*)", prefix, re.DOTALL)[0]
    name, equals, value = last.partition("=")
    if not equals:
        return [before + word for word in option_words()]
    found = list(WORDS.get(name, ()))
    if name in PATHS and not value.startswith("~"):         # which no shell would expand there
        found += map(quote, paths("".join(split(value))))
    return [f"{before}{name}={word}" for word in found]


def values(prefix: str, **_known: object) -> list[str]:
    """What `tmpfsctl set` may change."""
    from tmpfsd.server.tuning import SETTABLE  # imports the whole server
    name, equals, _value = prefix.partition("=")
    return [f"{name}={word}" for word in WORDS.get(name, ())] if equals else [f"{name}=" for name in SETTABLE]


def numbers(_prefix: str, **_known: object) -> list[str]:
    """A number: nothing can be suggested."""
    return []


COMPLETERS: dict[str, Callable[..., list[str]]] = {
    "path": paths, "file": paths, "mountpoint": mountpoints, "paths": directories, "tree": directories,
    "root": directories,
    "options": mount_options, "values": values, "seconds": numbers, "count": numbers}


def attach(parser: argparse.ArgumentParser) -> None:
    """Tell argcomplete what the arguments of a parser and its subcommands may be."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                attach(command)
        elif action.dest in COMPLETERS:
            setattr(action, "completer", COMPLETERS[action.dest])


def autocomplete(parser: argparse.ArgumentParser) -> None:
    """Answer the shell and exit.  => _ARGCOMPLETE is in the environment."""
    import argcomplete
    attach(parser)
    argcomplete.autocomplete(parser, always_complete_options=False,
                             default_completer=argcomplete.completers.SuppressCompleter())


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Describe the command line of completion."""
    command.add_argument("shell", choices=SHELLS)


def run(args: argparse.Namespace) -> None:
    """tmpfsctl completion."""
    print(script(args.shell))
