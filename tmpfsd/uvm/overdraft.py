"""uvm/overdraft.py: how an operation says that it may not fail for want of memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tmpfsd.uvm.vm import Vm


class Overdraft:
    """Within it pages may be allocated beyond `limit`, and from what is kept back of ram and of a fixed submap.

    For operations that must not fail when memory is short, and that give back about as much as they take.
    """

    __slots__ = ("vm",)

    def __init__(self, vm: "Vm") -> None:
        self.vm = vm

    def __enter__(self) -> None:
        self.vm.overdrawn = True

    def __exit__(self, *_error: object) -> None:
        self.vm.overdrawn = False
