"""fuse/abi.py says what <linux/fuse.h> says: a C program compiled here prints sizes, offsets and constants.

The header of the machine may be older than abi.py: names that it lacks are left out, and shown.
"""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tmpfsd.fuse import abi

HEADER = Path("/usr/include/linux/fuse.h")
CC = shutil.which("cc")
# Fields of names that came later, as older headers call them; "": a part of what is unused there.
OLDER = {("fuse_open_out", "backing_id"): "padding", ("fuse_attr", "flags"): "padding",
         ("fuse_init_out", "max_stack_depth"): "", ("fuse_init_out", "request_timeout"): ""}


def known_structures(text: str) -> list[abi.Structure]:
    return [each for each in abi.STRUCTURES if re.search(rf"struct {each.name} {{", text)]


def member(text: str, structure: abi.Structure, field: str) -> str:
    """The C name of a field in this version of the header; "" where it cannot be asked for."""
    body = re.search(rf"struct {structure.name} {{(.*?)\n}}", text, re.DOTALL)
    assert body is not None
    if re.search(rf"\b{field.partition('.')[0]}\b", body[1]):
        return "" if (structure.name, field) == ("fuse_init_out", "unused") and "max_stack_depth" not in text else field
    return OLDER[structure.name, field]


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """The compiler's values, by C expression."""
    if CC is None:
        pytest.skip("no C compiler (cc)")
    if not HEADER.exists():
        pytest.skip(f"no {HEADER} (package linux-libc-dev)")
    text = HEADER.read_text(encoding="ascii")
    lines = []
    for structure in known_structures(text):
        lines.append(f"sizeof(struct {structure.name})")
        for field in structure.offset:
            name = member(text, structure, field)
            if name:
                lines.append(f"offsetof(struct {structure.name}, {name})")
    lines += [name for name in abi.CONSTANTS if re.search(rf"\b{name}\b", text)]
    source = tmp_path_factory.mktemp("abi") / "abi.c"
    body = "\n".join(f'    printf("%llu {line}\\n", (unsigned long long)({line}));' for line in lines)
    source.write_text("#include <stddef.h>\n#include <stdio.h>\n#include <linux/fuse.h>\n"
                      f"int main(void)\n{{\n{body}\n    return 0;\n}}\n")
    subprocess.run([CC, "-w", "-o", source.with_suffix(""), source], check=True, timeout=60)
    output = subprocess.run([source.with_suffix("")], check=True, capture_output=True, text=True, timeout=60).stdout
    return {expression: int(value) for value, expression in (line.split(" ", 1) for line in output.splitlines())}


def test_sizes(said: dict[str, int]) -> None:
    sizes = {f"sizeof(struct {each.name})": each.size for each in abi.STRUCTURES}
    found = {expression: value for expression, value in said.items() if expression in sizes}
    assert len(found) > 30 and found == {expression: sizes[expression] for expression in found}


def test_offsets(said: dict[str, int]) -> None:
    offsets = {f"offsetof(struct {each.name}, {field})": at for each in abi.STRUCTURES for field, at in
               each.offset.items()}
    found = {expression: value for expression, value in said.items() if expression in offsets}
    assert len(found) > 150 and found == {expression: offsets[expression] for expression in found}


def test_constants(said: dict[str, int]) -> None:
    found = {name: value & (1 << 64) - 1 if value < 1 << 63 else value & (1 << 32) - 1 for name, value in said.items()
             if name in abi.CONSTANTS}
    assert len(found) > 90 and found == {name: abi.CONSTANTS[name] for name in found}


def test_what_the_header_of_the_newest_kernel_says() -> None:
    """Pinned, as the machine's header may be older than 7.39."""
    sizes = {"fuse_statx": 256, "fuse_statx_in": 24, "fuse_statx_out": 288, "fuse_sx_time": 16,
             "fuse_copy_file_range_out": 8, "fuse_init_in": 64, "fuse_init_out": 64}
    assert {each.name: each.size for each in abi.STRUCTURES if each.name in sizes} == sizes
    assert abi.STATX.offset["btime.tv_sec"] == 80 and abi.STATX.offset["rdev_major"] == 128
    assert abi.STATX_OP == 52 and abi.COPY_FILE_RANGE_64 == 53


def test_a_structure_that_is_not_as_large_as_declared_is_refused() -> None:
    with pytest.raises(AssertionError, match="fuse_x: fields have 12 bytes, declared 16"):
        abi.Structure("fuse_x", 16, ("a", "Q"), ("b", "I"))
