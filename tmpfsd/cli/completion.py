"""completion.py: tmpfsctl completion: what bash or zsh needs to complete tmpfsd and tmpfsctl.

Derived from the parsers, and the mount options from options.py: there is nothing to keep in step.  Both shells get
the same table, said in their own words; the lines are tried on a terminal (tests/unit/test_shells.py).
bash: the output is a file for /etc/bash_completion.d, or for `source <(tmpfsctl completion bash)`.
zsh: a file _tmpfsd in a directory of fpath, or for `source <(tmpfsctl completion zsh)` in ~/.zshrc.

Limits      bash: a command line is read as words between blanks; quotes around several words are not understood.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator
from typing import NamedTuple

from tmpfsd.cli import mount
from tmpfsd.options import BACKENDS, FLAGS, GENERIC, VALUED

EPILOG = """\
example:
  tmpfsctl completion bash > /etc/bash_completion.d/tmpfsd

For this shell only: source <(tmpfsctl completion bash), or zsh.  For zsh it may also be a file _tmpfsd in a
directory of fpath.

exit status:
  0  done             1  refused or failed: one line on stderr says why"""
SHELLS = ("bash", "zsh")
# The words that a mount option may have; FILE for those that may be a path.
FILE, DIRECTORY, OPTIONS, VALUES = "FILE", "DIRECTORY", "OPTIONS", "VALUES"
WORDS: dict[str, tuple[str, ...]] = {
    "backend": BACKENDS, "swap_io": ("buffered", "direct"), "submap": ("auto",), "spin": ("auto",),
    "submap_sharing": ("shared", "per-pool"), "swap": (FILE,), "metrics": (FILE,)}
PATHS = {"path": FILE, "mountpoint": DIRECTORY, "paths": DIRECTORY, "tree": DIRECTORY, "root": DIRECTORY,
         "options": OPTIONS, "values": VALUES}

# bash cuts words at = and :, so the line is read anew, and of what is found the part before the cut is taken off.
BASH = r"""
_tmpfsd_value() {       # the values that KEY= may have, in the words of the table
  case "$1" in
VALUES
    *) echo "" ;;
  esac
}

_tmpfsd_table() {       # what there is after a command and its subcommand
  case "$1" in
TABLE
    *) return 1 ;;
  esac
}

_tmpfsd() {
  local line="${COMP_LINE:0:COMP_POINT}" name="${1##*/}" cur="" kind="" word flags before last
  local -a words places
  local -A takes=()
  read -a words <<< "$line"             # without -r: a backslash keeps a blank
  while [ ${#words[@]} -gt 0 ] && [ "${words[0]##*/}" != "$name" ]; do words=("${words[@]:1}"); done
  if [[ "$line" != *[[:space:]] ]]; then cur="${words[-1]}"; unset "words[-1]"; fi
  _tmpfsd_table "$name" || return
  local nth=0 wants=""
  for word in "${words[@]:1}"; do
    if [ -n "$wants" ]; then wants=""
    elif [ "${word#-}" != "$word" ]; then [[ "$word" == *=* ]] || wants="${takes[$word]}"
    elif _tmpfsd_table "$name $word"; then name="$name $word"; nth=0
    else nth=$((nth + 1)); fi
  done
  if [ -n "$wants" ]; then kind="$wants"
  elif [[ "$cur" == --*=* ]]; then kind="${takes[${cur%%=*}]}"; cur="${cur#*=}"
  elif [ "${cur#-}" != "$cur" ]; then kind="$flags"
  else
    [ $nth -lt ${#places[@]} ] || [ ${#places[@]} = 0 ] || [ "${places[-1]}" != VALUES ] || nth=$((${#places[@]} - 1))
    kind="${places[nth]}"
  fi
  before="" last="$cur"
  case "$kind" in
    OPTIONS | VALUES)
      if [ "$kind" = OPTIONS ]; then last="${cur##*,}"; kind="MOUNT_OPTIONS"; else kind="SETTABLE"; fi
      if [[ "$last" == *=* ]]; then kind="$(_tmpfsd_value "${last%%=*}")"; last="${last#*=}"; fi
      before="${cur%"$last"}" ;;
  esac
  case "$kind" in
    FILE) compopt -o default ;;         # by readline itself, which knows ~ and how to quote
    DIRECTORY) compopt -o dirnames ;;
    *) mapfile -t COMPREPLY < <(compgen -P "$before" -W "$kind" -- "$last") ;;
  esac
  if [[ "$COMP_WORDBREAKS" == *=* ]]; then COMPREPLY=("${COMPREPLY[@]#"${cur%"${cur##*[=:]}"}"}"); fi
  if [ ${#COMPREPLY[@]} = 1 ] && [ "${COMPREPLY[0]%=}" != "${COMPREPLY[0]}" ]; then compopt -o nospace; fi
}
complete -F _tmpfsd tmpfsd tmpfsctl
"""
ZSH = r"""#compdef tmpfsd tmpfsctl

_tmpfsd_options() {
  _values -s , 'mount option' MOUNT_OPTIONS
}

_tmpfsd_values() {
  _values 'value' SETTABLE
}

_tmpfsd_commands() {
  local -a commands=(
COMMANDS
  )
  _describe 'command' commands
}

_tmpfsd() {
  local curcontext="$curcontext" state line
  local -A opt_args
  case $service in
TABLE
  esac
  [[ $state == arguments ]] || return
  curcontext="${curcontext%:*:*}:tmpfsctl-$words[1]:"
  case $words[1] in
SUBTABLE
  esac
}

if [[ $zsh_eval_context[-1] == loadautofunc ]]; then        # a file of fpath, as it is used first
  _tmpfsd "$@"
else
  (( $+functions[compdef] )) || { autoload -Uz compinit && compinit -i }
  compdef _tmpfsd tmpfsd tmpfsctl
fi
"""


class Word(NamedTuple):
    """An option, or an argument without one, as a shell may know it."""

    names: list[str]            # none: an argument
    help: str
    metavar: str
    takes: bool
    kind: str                   # FILE, DIRECTORY, OPTIONS, VALUES, or words; "": nothing that is known
    again: bool                 # any number of times
    ends: bool                  # --help and --version: nothing else is wanted then


def words_of(parser: argparse.ArgumentParser) -> Iterator[Word]:
    """The options and arguments of a parser, without its subcommands."""
    formatter = parser._get_formatter()
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            continue
        kind = " ".join(action.choices) if action.choices else PATHS.get(action.dest, "")
        text = formatter._expand_help(action) if action.help else str(action.metavar or action.dest)
        ends = isinstance(action, (argparse._HelpAction, argparse._VersionAction))
        yield Word(list(action.option_strings), text, str(action.metavar or action.dest), action.nargs != 0, kind,
                   action.nargs == "+" or isinstance(action, argparse._AppendAction), ends)


def commands_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The subcommands of a parser."""
    found = [action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(found[0]) if found else {}


def option_words() -> list[str]:
    """Every mount option, as it is begun to be written."""
    return sorted({*(f"{name}=" for name in VALUED), *FLAGS, *GENERIC} - {"default_permissions"})


# bash

def bash_row(name: str, parser: argparse.ArgumentParser) -> str:
    """A command in the table of bash."""
    words = list(words_of(parser))
    options = [word for word in words if word.names]
    flags = " ".join(name for word in options for name in word.names)
    takes = " ".join(f"[{name}]={shlex.quote(word.kind or '-')}" for word in options if word.takes
                     for name in word.names)
    places = [word.kind for word in words if not word.names]
    if name == "tmpfsd":
        places *= 2                     # [SOURCE] MOUNTPOINT
    if commands := commands_of(parser):
        places = [" ".join(commands)]
    return (f'    {shlex.quote(name)}) flags={shlex.quote(flags)} places=({shlex.join(places)}) takes=({takes}) ;;')


def bash(parsers: dict[str, argparse.ArgumentParser]) -> str:
    """The completion for bash."""
    from tmpfsd.server.tuning import SETTABLE  # with all of the server: no other command need wait for it
    rows = [bash_row(name, parser) for name, parser in parsers.items()]
    rows += [bash_row(f"tmpfsctl {name}", parser) for name, parser in commands_of(parsers["tmpfsctl"]).items()]
    values = [f"    {name}) echo {shlex.quote(' '.join(words))} ;;" for name, words in WORDS.items()]
    settable = " ".join(f"{name}=" for name in SETTABLE)
    return (BASH.replace("MOUNT_OPTIONS", " ".join(option_words())).replace("SETTABLE", settable)
            .replace("TABLE", "\n".join(rows)).replace("\nVALUES\n", "\n" + "\n".join(values) + "\n"))


# zsh

def zsh_text(text: str) -> str:
    """A text inside a specification of _arguments or _values."""
    for character in "\\:[]":
        text = text.replace(character, "\\" + character)
    return text


def zsh_action(kind: str) -> str:
    """What _arguments is to do for a kind of words."""
    known = {FILE: "_files", DIRECTORY: "_files -/", OPTIONS: "_tmpfsd_options", VALUES: "_tmpfsd_values", "": " "}
    return known.get(kind, f"({kind})")


def zsh_specifications(word: Word) -> Iterator[str]:
    """A word as _arguments wants to have it said, for each of its names."""
    value = f":{zsh_text(word.metavar)}:{zsh_action(word.kind)}"
    if not word.names:
        yield ("*" if word.again else "") + value
    for name in word.names:
        first = "(- *)" if word.ends else "*" if word.again else f"({' '.join(word.names)})"
        mark = "" if not word.takes else "=" if name.startswith("--") else "+"
        yield f"{first}{name}{mark}[{zsh_text(word.help)}]{value if word.takes else ''}"


def zsh_row(name: str, parser: argparse.ArgumentParser) -> str:
    """A command in the table of zsh."""
    words = [text for word in words_of(parser) for text in zsh_specifications(word)]
    stay = ""
    if commands_of(parser):
        stay, words = "-C ", [*words, "(-): :_tmpfsd_commands", "(-)*:: :->arguments"]
    return f"    {name}) _arguments -s {stay}{shlex.join(words)} ;;"


def zsh_value(name: str) -> str:
    """A mount option as _values wants to have it said."""
    if name.rstrip("=") == name:
        return name
    return f"{name[:-1]}:{name[:-1]}:{zsh_action(' '.join(WORDS.get(name[:-1], ())))}"


def zsh(parsers: dict[str, argparse.ArgumentParser]) -> str:
    """The completion for zsh."""
    from tmpfsd.server.tuning import SETTABLE
    found = commands_of(parsers["tmpfsctl"])
    commands = [shlex.quote(f"{name}:{zsh_text(parser.description or '')}") for name, parser in found.items()]
    rows = [zsh_row(name, parser) for name, parser in found.items()]
    return (ZSH.replace("MOUNT_OPTIONS", shlex.join(map(zsh_value, option_words())))
            .replace("SETTABLE", shlex.join(zsh_value(f"{name}=") for name in SETTABLE))
            .replace("COMMANDS", "\n".join(f"    {line}" for line in commands)).replace("SUBTABLE", "\n".join(rows))
            .replace("TABLE", "\n".join(zsh_row(name, parser) for name, parser in parsers.items())))


def script(shell: str) -> str:
    """The completion of both commands."""
    from tmpfsd.cli import ctl
    return (bash if shell == "bash" else zsh)({"tmpfsd": mount.make_parser(), "tmpfsctl": ctl.make_parser()})


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Describe the command line of completion."""
    command.add_argument("shell", choices=SHELLS)


def run(args: argparse.Namespace) -> None:
    """tmpfsctl completion."""
    print(script(args.shell))
