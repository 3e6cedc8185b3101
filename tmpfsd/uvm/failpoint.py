"""uvm/failpoint.py: the calls that a test counts, or has refuse (after fail(9) of FreeBSD).

`if failpoint.hook: failpoint.hook("Vm.alloc_page")` stands first in each of them; what the hook raises, the call
raises.  Patching the method would do where all is interpreted, but compiled code calls compiled code without a look at
the class.
"""

from typing import Callable

hook: Callable[[str], None] | None = None
