"""pool: pools of equal-size items over pages, and the backends that give pools their pages.

Usable without a file system: see Pool.
"""

from tmpfsd.pool.backends import Aobj, Backend, KernelMap, PageableSubmap, make_backend
from tmpfsd.pool.pool import Pool
from tmpfsd.pool.strings import Strings
from tmpfsd.pool.table import Table

__all__ = ["Aobj", "Backend", "KernelMap", "PageableSubmap", "Pool", "Strings", "Table", "make_backend"]
