"""The common part of the tests of B+trees: a tree with a dict that it must be equal to."""

from tmpfsd.tmpfs import layout
from tmpfsd.tmpfs.btree import BTree
from tmpfsd.tmpfs.mem import Mem
from tmpfsd.uvm.vm import Vm

SMALL = {64: 1, 128: 2, 256: 3, 512: 4, 1024: 5, 2048: 6, 4096: 7}


class Tree:
    """One tree, its owner, and the dict that it must be like."""

    def __init__(self, vm: Vm, value_size: int) -> None:
        self.vm = vm
        self.mem = Mem(vm, "pageable-submap")
        self.tree = BTree(self.mem, value_size)
        self.bits = 8 * value_size
        self.model: dict[int, int] = {}
        self.ino = self.mem.get_node(0)
        layout.init_node(vm.phys.arena, self.at(), 0o040755, layout.KIND_TREE, 2, 0, 0, 0, 1, 0)

    def at(self) -> int:
        return self.mem.node_w(self.ino)

    def height(self) -> int:
        return layout.tn_tree(self.vm.phys.arena, self.at())[1]

    def insert(self, key: int, value: int) -> None:
        self.vm.breathe()
        self.tree.insert(self.at(), key, value)
        self.model[key] = value

    def remove(self, key: int) -> None:
        self.vm.breathe()
        self.tree.remove(self.at(), key)
        del self.model[key]

    def entries(self) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        while True:
            self.vm.breathe()
            batch = self.tree.batch_from(self.at(), found[-1][0] + 1 if found else 0)
            if not batch:
                return found
            found += batch

    def check(self) -> None:
        """The tree is sound, holds what it should, and only the items of its nodes are handed out."""
        self.vm.breathe()
        assert self.tree.check(self.at()) == len(self.model)
        assert self.entries() == sorted(self.model.items())
        self.vm.breathe()
        nodes = sum(1 for _node in self.tree.walk(self.at()))
        assert nodes == sum(1 for _handle in self.mem.strings.handles())
        self.mem.check()
