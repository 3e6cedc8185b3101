"""uvm/overdraft.py: what may not fail for want of memory says so."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tmpfsd.uvm.vm import Vm


class Overdraft:
    """Within it pages may be allocated beyond `limit`, and from what is kept back of ram and of a fixed submap.

    For what must not fail where memory is short, and gives back about as much as it takes.
    """

    __slots__ = ("vm",)

    def __init__(self, vm: "Vm") -> None:
        self.vm = vm

    def __enter__(self) -> None:
        self.vm.overdrawn = True

    def __exit__(self, *_error: object) -> None:
        self.vm.overdrawn = False
