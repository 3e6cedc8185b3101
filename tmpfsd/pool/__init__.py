"""pool: pools of equal-size items over pages, and the backends that give pools their pages.

Usable without a file system, for records of any fixed size: a million records of 64 bytes in 8 MiB of memory.

>>> from struct import Struct
>>> from tmpfsd.pool import Pool, make_backend
>>> from tmpfsd.uvm.store import open_store
>>> from tmpfsd.uvm.swap import Swap
>>> from tmpfsd.uvm.vm import Vm
>>> vm = Vm(8 << 20, Swap(open_store("/var/tmp"), nslots=1 << 16))
>>> pool = Pool(vm, make_backend("pageable-submap", vm), name="record", owner=1, item_size=64)
>>> record = Struct("<QQ48s")
>>> for i in range(1_000_000):
...     vm.breathe()                                        # pages leave here, and only here
...     at = vm.write(pool.va(pool.get()))                  # good until the next breathe()
...     record.pack_into(vm.phys.arena, at, i, i * i, b"a record")
>>> vm.breathe()
>>> record.unpack_from(vm.phys.arena, vm.read(pool.va(123_456)))[:2]
(123456, 15241383936)
>>> pool.nitems, pool.npages, vm.daemon.pageouts > 10_000
(1000000, 15625, True)
>>> vm.close()
"""

from tmpfsd.pool.backends import Aobj, Backend, KernelMap, PageableSubmap, make_backend
from tmpfsd.pool.pool import Pool
from tmpfsd.pool.strings import Strings
from tmpfsd.pool.table import Table

__all__ = ["Aobj", "Backend", "KernelMap", "PageableSubmap", "Pool", "Strings", "Table", "make_backend"]
