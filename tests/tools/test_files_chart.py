"""The chart of README.md says what was measured, and its bars begin at zero."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib")

from tools import files_chart  # noqa: E402
from tools.experiments import figures  # noqa: E402

README = Path(files_chart.__file__).parents[1] / "README.md"


def test_readme_has_the_figures() -> None:
    text = README.read_text()
    assert f"tools/{files_chart.PICTURE.name}" in text
    for count in files_chart.counts(files_chart.RESULTS).values():
        assert f"{count:,}" in text


def test_bars_begin_at_zero_and_are_in_proportion(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Any] = []
    monkeypatch.setattr(figures, "save", lambda figure, _path: kept.append(figure))
    files_chart.draw({"kernel-cgroup": 100, "tmpfsd-cgroup": 300}, Path("unused.png"))
    axes = kept[0].axes[0]
    assert axes.get_xlim()[0] == 0 and [bar.get_width() for bar in axes.patches] == [100, 300]
    assert {bar.get_x() for bar in axes.patches} == {0} and axes.get_xscale() == "linear"


def test_it_writes_a_picture(tmp_path: Path) -> None:
    path = tmp_path / "files.png"
    files_chart.draw(files_chart.counts(files_chart.RESULTS), path)
    assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size < 40_000
