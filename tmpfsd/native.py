"""native.py: what compiled modules say to mypyc, as nothing at run time.

`i64` is an int in a register.  It wraps around where a Python int grows, so that it is for what is known to be small:
page numbers, offsets, indexes.  mypyc_attr() gives a class properties, for example that a test may derive from it.
mypy_extensions, where mypyc knows both from, need not be installed.
"""

from typing import TYPE_CHECKING, Any, Callable

if TYPE_CHECKING:
    from mypy_extensions import i64 as i64
    from mypy_extensions import mypyc_attr as mypyc_attr
else:
    i64 = int

    def mypyc_attr(**_properties: Any) -> Callable[[type], type]:
        """Nothing to an interpreter."""
        return lambda cls: cls
