"""native.py: what compiled modules say to mypyc, without effect at run time.

`i64` is an int in a register.  It wraps around where a Python int grows.  So it is for what is known to be small:
page numbers, offsets, indexes.  mypyc_attr() sets properties of a class, for example that a test may derive from it.
mypy_extensions, from which mypyc knows both, need not be installed.
"""

from typing import TYPE_CHECKING, Any, Callable

if TYPE_CHECKING:
    from mypy_extensions import i64 as i64
    from mypy_extensions import mypyc_attr as mypyc_attr
else:
    i64 = int

    def mypyc_attr(**_properties: Any) -> Callable[[type], type]:
        """Do nothing when interpreted."""
        return lambda cls: cls
