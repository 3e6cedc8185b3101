"""uvm/failpoint.py: calls that a test can count, or make fail (after fail(9) of FreeBSD).

Each of them begins with `if failpoint.hook: failpoint.hook("Vm.alloc_page")`.  The call raises what the hook raises.
Patching the method is not enough: compiled code calls compiled code without a look at the class.
"""

from typing import Callable

hook: Callable[[str], None] | None = None
