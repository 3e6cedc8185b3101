"""uvm/pagekind.py: a page's flags: its kind, and its owner.

Picture     flags: WIRED 1 bit | UNOWNED 1 | WINDOWED 1 | owner 5          0: the page has no owner
"""

from typing import Final

WIRED: Final = 0x80         # never leaves
UNOWNED: Final = 0x40       # allocated PAGEABLE, but owned by no object: on no queue, so it never leaves either
WINDOWED: Final = 0x20      # of an anonymous object: seen through windows (windows.py)
OWNER_MASK: Final = 0x1F
MAX_OWNERS: Final = OWNER_MASK + 1
UNWRITTEN: Final = OWNER_MASK       # the owner of pages that are only promised (unwritten.py)
