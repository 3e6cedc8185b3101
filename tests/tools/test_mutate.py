"""tools/mutate.py: each change is one that a test could see."""

import ast

import pytest

from tools import mutate

TEXT = """
def f(a: int = 3, *, b=True) -> int:
    assert a > 1
    if a < 2 and b:
        print("x")
    a += 1
    return a << 2
"""


def changed(i: int) -> str:
    """TEXT after its i-th change."""
    tree = ast.parse(TEXT)
    mutate.change(list(mutate.places(tree))[i])
    return ast.unparse(ast.fix_missing_locations(tree))


def test_every_change_is_another_text_that_compiles() -> None:
    n = len(list(mutate.places(ast.parse(TEXT))))
    texts = {changed(i) for i in range(n)}
    assert len(texts) == n == 11 and ast.unparse(ast.parse(TEXT)) not in texts
    for text in texts:
        compile(text, "text", "exec")
        assert "assert a > 1" in text, "assertions are left alone"


@pytest.mark.parametrize("text", ["a <= 2", "a < 3", "a < 2 or b", "not (a < 2 and b)", "a -= 1", "a >> 2", "b=False",
                                  "None", "a: int=4"])
def test_what_is_changed(text: str) -> None:
    n = len(list(mutate.places(ast.parse(TEXT))))
    assert any(text in changed(i) for i in range(n)), [changed(i) for i in range(n)]


def test_there_is_something_to_change_on_each_floor() -> None:
    found = {path.parts[1] for path, _i in mutate.mutants([])}
    assert found == set(mutate.FLOORS)
