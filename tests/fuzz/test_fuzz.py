"""Each target of this folder, with any bytes and, where atheris is installed, with bytes that reach new code."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz import control, options, vnops, wire

TARGETS = {"options": options, "control": control, "vnops": vnops, "wire": wire}
RUNS = {"options": 20_000, "control": 1_500, "vnops": 600, "wire": 800}
EXAMPLES = {"options": 1000, "control": 500, "vnops": 300, "wire": 300}
REPOSITORY = Path(__file__).resolve().parents[2]

no_atheris = pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not installed")


@pytest.mark.parametrize("target", TARGETS)
def test_bytes_of_any_kind(target: str) -> None:
    @settings(max_examples=EXAMPLES[target], deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.binary(max_size=600))
    def run(data: bytes) -> None:
        TARGETS[target].one(data)

    run()


@no_atheris
@pytest.mark.parametrize("target", TARGETS)
def test_bytes_that_reach_new_code(target: str, tmp_path: Path) -> None:
    # len_control: long inputs from the start, for each operation takes some bytes of its own.
    command = [sys.executable, "-m", f"tests.fuzz.{target}", f"-runs={RUNS[target]}", "-max_len=600", "-len_control=0",
               "-seed=1", f"-artifact_prefix={tmp_path}/"]
    result = subprocess.run(command, cwd=REPOSITORY, env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
                            capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    assert f"Done {RUNS[target]} runs" in result.stderr


class TestTheTargets:
    """A target that cannot fail finds nothing."""

    def test_vnops_sees_what_the_checker_sees(self, monkeypatch: pytest.MonkeyPatch) -> None:
        data = bytes((0, 0, 0, 0, 0)) * 20
        vnops.one(data)
        monkeypatch.setattr(vnops.Driver, "check", lambda fs: fs.mp.mem.nodes.put(0) or fs.mp.check())
        with pytest.raises(Exception, match="P|N"):
            vnops.one(data)

    def test_wire_sees_an_answer_too_many(self, monkeypatch: pytest.MonkeyPatch) -> None:
        data = bytes((0, 255, 2)) + bytes(200)
        wire.one(data)
        monkeypatch.setattr(wire, "expects", lambda _data: False)
        with pytest.raises(AssertionError):
            wire.one(data)

    def test_control_sees_an_answer_that_cannot_be_sent(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(control.SERVER.commands, "ping", lambda _request: {1, 2})
        with pytest.raises(TypeError):
            control.one(b"\0" + b'{"command": "ping"}\n')

    def test_options_sees_a_promise_broken(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(options.options.VALUED, "ram",
                            options.options.Option("ram_bytes", lambda text, physical: 5, ""))
        with pytest.raises(AssertionError):
            options.one(b"\0ram=1m")
