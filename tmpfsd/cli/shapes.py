"""shapes.py: what the answers to each command look like; any other answer is not understood.

The server of a mount may be a stranger's program, or a daemon of another version.  client.py looks at each answer
here, before a command sees it.

Picture     line --parse()--> an object, not deep, without infinite numbers --understand()--> of the command's shape
Invariants  W1 A command may read each key of its shape without a look at the value.  A key that is not in every answer
               is `optional` here, and get() reads it there.
            W2 Keys that no shape names may have any value: a newer daemon may send more.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, NoReturn

MOST_DEEP = 16              # objects and lists in each other
MOST_NUMBER = 1 << 64
MOST_TEXT = 1 << 16         # characters
LATEST = 1 << 36            # seconds since 1970: a time that can be written with four digits for the year
MOST_ID = 1 << 32           # users and groups
MOST_SAMPLE = 256           # buckets of latency: what the last one stands for doubles with every fourth
LEAST_CURVE = 7             # sizes of ram in an advice: the seventh is twice the present one

Shape = Callable[[Any], None]           # => ValueError: the value is not of this shape


def demand(holds: bool) -> None:
    """=> ValueError, unless it holds."""
    if not holds:
        raise ValueError("another shape")


def count(value: Any) -> None:
    """A whole number, 0 or more.  True is none."""
    demand(type(value) is int and 0 <= value < MOST_NUMBER)


def number(value: Any) -> None:
    """A number, 0 or more.  NaN is none."""
    demand(type(value) in (int, float) and 0 <= value < MOST_NUMBER)


def moment(value: Any) -> None:
    """Seconds since 1970."""
    demand(type(value) in (int, float) and 0 <= value < LATEST)


def account(value: Any) -> None:
    """A user id or a group id."""
    demand(type(value) is int and 0 <= value < MOST_ID)


def text(value: Any) -> None:
    """A text, not longer than messages are."""
    demand(isinstance(value, str) and len(value) <= MOST_TEXT)


def flag(value: Any) -> None:
    """True or false."""
    demand(isinstance(value, bool))


def anything(_value: Any) -> None:
    """What the command does not look into."""


def maybe(shape: Shape) -> Shape:
    """That, or null."""
    return lambda value: None if value is None else shape(value)


def value_of_setting(value: Any) -> None:
    """A number or a word."""
    (text if isinstance(value, str) else count)(value)


def list_of(shape: Shape, least: int = 0, most: int = MOST_NUMBER) -> Shape:
    """A list of these, at least and at most so many."""
    def look(value: Any) -> None:
        demand(isinstance(value, list) and least <= len(value) <= most)
        for each in value:
            shape(each)
    return look


def row(*shapes: Shape) -> Shape:
    """A list of exactly these."""
    def look(value: Any) -> None:
        demand(isinstance(value, list) and len(value) == len(shapes))
        for shape, each in zip(shapes, value):
            shape(each)
    return look


def by_name(shape: Shape) -> Shape:
    """An object with any names, each with one of these."""
    def look(value: Any) -> None:
        demand(isinstance(value, dict))
        for name, each in value.items():
            text(name)
            shape(each)
    return look


def record(needed: Mapping[str, Shape], optional: Mapping[str, Shape] | None = None) -> Shape:
    """An object with these keys, and more."""
    def look(value: Any) -> None:
        demand(isinstance(value, dict) and needed.keys() <= value.keys())
        for name, shape in (*needed.items(), *(optional or {}).items()):
            if name in value:
                shape(value[name])
    return look


def counts(*names: str) -> dict[str, Shape]:
    """Keys with a count each."""
    return dict.fromkeys(names, count)


def both(one: Shape, other: Shape) -> Shape:
    """A value that has two shapes."""
    def look(value: Any) -> None:
        one(value)
        other(value)
    return look


# --- the status ---

PAGES = counts("pages", "resident_pages", "swapped_pages")
FILE = record({"path": text, **counts("size_bytes", "used_bytes"), "draining": flag}, {"disk_full": flag})
SWAP = record({"path": maybe(text), **counts("size_bytes", "used_bytes")},
              {"files": list_of(FILE), "disk_full": flag, "bad_slots": count})
SUBMAP = record({"policy": text, "sharing": text, **counts("size_bytes", "used_bytes", "high_water_bytes")})
ZRAM = record({**counts("size_bytes", "used_bytes", "stored_bytes", "hits", "writebacks"), "ratio": number},
              {"full": flag})
PAGING = both(by_name(count), record(counts("faults", "pageins", "pageouts", "scans", "reclaims", "stalls")))
STATUS = record(
    {"mountpoint": text, "backend": text, "submap": maybe(SUBMAP), "swap": SWAP, "paging": PAGING,
     "pools": list_of(record({"name": text, **counts("item_size", "items"), **PAGES}, counts("data_items"))),
     "data": record(PAGES),
     "requests": by_name(count),
     **counts("size_bytes", "used_bytes", "inodes", "inodes_max", "ram_bytes", "resident_bytes", "wired_bytes",
              "dirty_bytes")},
    {"zram": maybe(ZRAM), "image": maybe(record({}, {"state": text})), "refused": by_name(count),
     "io": by_name(count), "daemon": record({}, {"cpu_seconds": number, "rss_bytes": count}),
     **counts("pid", "lost_writes", "lost_inodes", "unowned_bytes")})

# --- what else is asked ---

ADVICE = record({
    "seconds": number, "pagein_us": number, "enough_bytes": maybe(count),
    **counts("pageins", "sampled_pages", "sampled_accesses", "ram_bytes"),
    "curve": list_of(record({"ram_bytes": count, "pageins_per_second": number, "waiting": number}), least=LEAST_CURVE),
    "zram": list_of(record({"zram_bytes": count, "ratio": number, "from_swap_per_second": number,
                            "waiting": number}))})
CHANGES = by_name(record({"was": value_of_setting, "is": value_of_setting}))
PART = record(counts("bytes", "resident_bytes", "swapped_bytes"))
USAGE = record({"metadata": PART, "data": PART,
                **counts("names", "directories", "files", "others", "skipped", "unreadable")})
PAGED_IN = record({**counts("names", "bytes", "unreadable"), "full": flag})
ACCOUNTS = maybe(list_of(row(account, count, count, count, count)))
HEALTH = record({"time": moment, "state": text, "before": text, "reasons": list_of(text)})
LOGGED = record({"time": moment, "event": text, "level": text, "text": text})


def event(value: Any) -> None:
    """An event of `tmpfsctl events`."""
    (HEALTH if isinstance(value, dict) and value.get("event") == "health" else LOGGED)(value)


def events_of(shape: Shape) -> Shape:
    """Events since the last answer, and how many were lost."""
    return record({"lost": count, "events": list_of(shape)})


STEPS = record(counts("done", "of"))


class Answers(NamedTuple):
    """The shape of a command's result, and of its progress; None: there is none."""

    result: Shape | None
    progress: Shape | None = None


UNKNOWN = Answers(anything, STEPS)      # of a command whose answer is not looked into
ANSWERS = {
    "status": Answers(STATUS),
    "latency": Answers(by_name(list_of(count, least=2, most=MOST_SAMPLE))),
    "advise": Answers(ADVICE, STEPS),
    "check": Answers(text, STEPS),
    "snapshot": Answers(record(counts("inodes", "bytes")), STEPS),
    "set": Answers(CHANGES, STEPS),
    "remount": Answers(CHANGES, STEPS),
    "quota": Answers(record({"users": ACCOUNTS, "groups": ACCOUNTS})),
    "swapon": Answers(record(counts("size_bytes")), STEPS),
    "swapoff": Answers(record(counts("moved_bytes"), {"warning": text}), STEPS),
    "flush": Answers(record(counts("evicted_bytes", "stayed_bytes", "resident_bytes", "wired_bytes")), STEPS),
    "du": Answers(USAGE, record(counts("names"))),
    "prefetch": Answers(PAGED_IN, PAGED_IN),
    "discard": Answers(record(counts("names", "lost")), record(counts("names"))),
    "record": Answers(record(counts("pages"))),
    "trace": Answers(None, events_of(row(moment, text, count, text))),
    "events": Answers(None, events_of(event)),
}


def parse(line: bytes) -> dict[str, Any]:
    """Read an answer.  O(length).  => ValueError, RecursionError."""
    answer = json.loads(line, parse_constant=refuse)
    demand(isinstance(answer, dict))
    demand_plain(answer)
    return dict(answer)


def refuse(_word: str) -> NoReturn:
    """Refuse what JSON does not have: NaN, Infinity.  => ValueError."""
    raise ValueError("no number")


def demand_plain(answer: Any) -> None:
    """Refuse what is too deep to be printed, and numbers like 1e999, which Python reads as infinite.  => ValueError."""
    level = [answer]
    for _ in range(MOST_DEEP):
        demand(not any(isinstance(value, float) and math.isinf(value) for value in level))
        level = [child for value in level if isinstance(value, (dict, list))
                 for child in (value.values() if isinstance(value, dict) else value)]
    demand(not level)


def understand(command: str, answer: Mapping[str, Any]) -> None:
    """Look whether this can be an answer to the command.  O(size).  => ValueError."""
    flag(answer.get("ok"))
    if not answer["ok"]:
        text(answer.get("error", ""))
        return
    demand(bool(answer.keys() & {"progress", "result"}))
    progress = answer.get("progress")
    if isinstance(progress, dict) and "of" in progress:     # whoever waits reads it, whatever the command
        STEPS(progress)
    for name, shape in ANSWERS.get(command, UNKNOWN)._asdict().items():
        if name in answer:
            demand(shape is not None)
            shape(answer[name])


def has_end(command: str) -> bool:
    """Tell whether a command ends by itself, with a result."""
    return ANSWERS.get(command, UNKNOWN).result is not None
