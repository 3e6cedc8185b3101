"""pool: pools of equal-size items over pages, and the backends that give pools their pages.

Usable without a file system: see Pool.
"""

from tmpfsd.pool.backends import Backend, PageableSubmap, Wired, make_backend
from tmpfsd.pool.pool import Pool
from tmpfsd.pool.strings import Strings
from tmpfsd.pool.table import Table

__all__ = ["Backend", "PageableSubmap", "Pool", "Strings", "Table", "Wired", "make_backend"]
