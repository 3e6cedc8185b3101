"""uvm/param.py: the page size, the size of a cluster, and conversions (after NetBSD <uvm/uvm_param.h>).  All O(1)."""

from typing import Final

PAGE_SHIFT: Final = 12
PAGE_SIZE: Final = 1 << PAGE_SHIFT
PAGE_MASK: Final = PAGE_SIZE - 1
CLUSTER: Final = 16         # pages written to a store, read from one, or copied at once: 64 KiB


def round_page(nbytes: int) -> int:
    """Bytes rounded up to a page boundary."""
    return (nbytes + PAGE_MASK) & ~PAGE_MASK


def atop(address: int) -> int:
    """Address to page number."""
    return address >> PAGE_SHIFT


def ptoa(page: int) -> int:
    """Page number to address."""
    return page << PAGE_SHIFT
