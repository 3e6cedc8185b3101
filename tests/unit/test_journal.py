"""The input of `tmpfsctl events`: the log, and changes of health; which lines are kept, and which are lost."""

import json
import logging
import threading
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.unit.test_health import state
from tmpfsd.cli import events as command
from tmpfsd.server.journal import AT_ONCE, KEPT, MOST_TEXT, Journal
from tmpfsd.server.refused import ControlError


def told(journal: Journal, *requests: dict[str, Any], answers: int = 1) -> list[dict[str, Any]]:
    """The first answers to a request."""
    async def main() -> list[dict[str, Any]]:
        asked = journal.ask(requests[0] if requests else {})
        found = [(await anext(asked))["progress"] for _ in range(answers)]
        await asked.aclose()
        return found

    return trio.run(main)


def numbers(answers: list[dict[str, Any]]) -> list[int]:
    """The numbers of all that was told."""
    return [event["number"] for answer in answers for event in answer["events"]]


def test_the_first_is_how_it_is_now() -> None:
    answer, = told(Journal(lambda: state(used_bytes=100)))
    event, = answer["events"]
    assert (event["event"], event["state"], event["before"]) == ("health", "full", "")
    assert event["reasons"] == ["size is used up"]


def test_each_change_of_state_is_told_once() -> None:
    journal = Journal(state)
    for used in (10, 85, 86, 100, 10):
        journal.look(state(used_bytes=used))
    found = [(each["before"], each["state"]) for each in journal.take(0)[0]]
    assert found == [("", "ok"), ("ok", "under pressure"), ("under pressure", "full"), ("full", "ok")]


def test_the_log_is_told() -> None:
    journal, log = Journal(state), logging.getLogger("tmpfsd.server.pressure")
    log.addHandler(journal)
    try:
        log.setLevel(logging.DEBUG)
        log.debug("not this")
        log.warning("size is %d%% full\nand more", 80)
        log.error("x" * 5000)
    finally:
        log.removeHandler(journal)
        log.setLevel(logging.NOTSET)
    found, lost = journal.take(0)
    assert [(each["level"], each["source"], each["text"]) for each in found] == [
        ("warning", "pressure", "size is 80% full"), ("error", "pressure", "x" * MOST_TEXT)] and not lost


def test_past_is_told_first_and_what_was_too_much_is_not_counted_then() -> None:
    journal = Journal(state)
    for number in range(KEPT + 10):
        journal.note("log", text=str(number))
    answers = told(journal, {"past": True}, answers=1 + KEPT // AT_ONCE)
    assert not any(answer["lost"] for answer in answers)
    assert numbers(answers) == list(range(12, 12 + KEPT))       # one more: how it is
    assert told(journal)[0]["events"][0]["event"] == "health"


def test_who_is_too_slow_knows_how_much_is_missing() -> None:
    async def main() -> dict[str, Any]:
        asked = journal.ask({})
        await anext(asked)
        for number in range(KEPT + 7):
            journal.note("log", text=str(number))
        answer = await anext(asked)
        await asked.aclose()
        return answer["progress"]

    journal = Journal(state)
    answer = trio.run(main)
    assert answer["lost"] == 7 and answer["events"][0]["text"] == "7" and len(answer["events"]) == AT_ONCE


def test_a_change_without_traffic_is_seen_while_somebody_follows() -> None:
    async def main() -> list[dict[str, Any]]:
        asked = journal.ask({})
        await anext(asked)
        found["used_bytes"] = 100
        answer = await anext(asked)
        quiet = await anext(asked)
        await asked.aclose()
        return [answer["progress"], quiet["progress"]]

    found = state()
    journal = Journal(lambda: found)
    changed, quiet = trio.run(main, clock=MockClock(autojump_threshold=0))
    assert [event["state"] for event in changed["events"]] == ["full"]
    assert quiet == {"events": [], "lost": 0}           # a heartbeat: is the client gone?


def test_no_event_is_lost_between_threads() -> None:
    journal = Journal(state)
    threads = [threading.Thread(target=lambda: [journal.note("log", text="") for _ in range(1000)]) for _ in range(8)]
    seen: list[int] = []
    lost_of_all = 0
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads) or not seen or seen[-1] != 8000:
        found, lost = journal.take(seen[-1] if seen else 0)
        lost_of_all += lost
        seen += [each["number"] for each in found]
    assert seen == sorted(set(seen)) and len(seen) + lost_of_all == 8000


@pytest.mark.parametrize("past", (1, "yes", None, []))
def test_bad_requests(past: Any) -> None:
    with pytest.raises(ControlError, match="true or false"):
        told(Journal(state), {"past": past})


@pytest.mark.parametrize("event, text", [
    ({"event": "health", "state": "full", "before": "ok", "reasons": ["a", "b"]}, "health   full (was ok): a; b"),
    ({"event": "health", "state": "ok", "before": "", "reasons": []}, "health   ok"),
    ({"event": "log", "level": "warning", "text": "swap is 80% full"}, "warning  swap is 80% full"),
], ids=str)
def test_text(event: dict[str, Any], text: str) -> None:
    assert command.text_of({"time": 1e9, **event}).partition("  ")[2] == text
    assert command.text_of({"lost": 1234}) == "(1,234 events are missing: they came too fast)"
    json.dumps(event)
