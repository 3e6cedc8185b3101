"""The picture of top: whole, readable, and without anything that a viewer would have to fetch."""

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tools import picture

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> str:
    from tests.unit.test_top import AFTER, BEFORE
    looks = [BEFORE, AFTER]
    monkeypatch.setattr(picture, "look", lambda _mountpoint: looks.pop(0))
    monkeypatch.setattr(picture, "INTERVALS", 1)
    return picture.picture("/mnt", 0, 80, 24)


def texts(svg: str) -> list[str]:
    return [(node.text or "").replace("\u00a0", " ") for node in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_it_has_what_top_shows(drawn: str) -> None:
    found = " ".join(texts(drawn))
    for word in ("tmpfsctl top", "lookup", "97M of 100M", "LATENCY us"):
        assert word in found, word


@pytest.mark.parametrize("source", ("drawn", "kept"))
def test_it_fetches_nothing_and_no_text_begins_with_spaces(drawn: str, source: str) -> None:
    svg = drawn if source == "drawn" else (Path(picture.__file__).parents[1] / "tools/top.svg").read_text()
    assert "font-face" not in svg and not re.search(r"(href|src|url)\W+https?:", svg)
    shown = [text for text in texts(svg) if text.strip()]
    assert len(shown) > 40 and not any(text.startswith(" ") for text in shown)
