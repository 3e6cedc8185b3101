"""uvm/queues.py: the queues of frames whose pages may leave: links, and some flags of each frame.

PageDaemon (pagedaemon.py) is derived from Queues, decides which frame goes where, and has the invariants (D1-D4).

Picture     next, prev: circular lists.  Links 0 to 2 are the heads, link NHEADS + pfn is a frame.
                head ACTIVE - 1 -> link -> link -> ... -> head          the one after the head has waited longest

Breathing   Never.
"""

from array import array
from typing import Final, Iterable

NOT_QUEUED: Final = 0
ACTIVE: Final = 1
INACTIVE: Final = 2
HELD: Final = 3
NHEADS: Final = 3
LIVES: Final = 16           # rounds that a page of an index is let off: a page of nodes serves a twelfth of its files


class Queues:
    """Three queues of frames.  12 bytes a frame."""

    __slots__ = ("next", "prev", "queue", "fresh", "lives", "slotted", "count")

    def __init__(self) -> None:
        self.next = array("I", range(NHEADS))
        self.prev = array("I", range(NHEADS))
        self.queue = bytearray()            # which one a frame is on
        self.fresh = bytearray()            # whether it has not gone round yet
        self.lives = bytearray()            # rounds that it is let off
        self.slotted = bytearray()          # D4
        self.count = [0, 0, 0, 0]

    def know_frames(self, nframes: int) -> None:
        """There are nframes now; those that are gone were on no queue.  O(frames that are new)."""
        known = len(self.queue)
        for links in (self.next, self.prev):
            del links[NHEADS + nframes:]
            links.extend(range(NHEADS + known, NHEADS + nframes))
        for flags in (self.queue, self.fresh, self.lives, self.slotted):
            del flags[nframes:]
            flags.extend(bytes(max(nframes - known, 0)))
        self.count[NOT_QUEUED] = nframes

    def enter(self, pfn: int, queue: int = INACTIVE) -> None:
        """Put a frame that may leave at the tail of a queue.  O(1)."""
        head, link = queue - 1, NHEADS + pfn
        last = self.prev[head]
        self.next[last] = self.prev[head] = link
        self.prev[link] = last
        self.next[link] = head
        self.queue[pfn] = queue
        self.count[queue] += 1

    def remove(self, pfn: int) -> None:
        """Take a frame off its queue.  O(1)."""
        before, after = self.prev[NHEADS + pfn], self.next[NHEADS + pfn]
        self.next[before] = after
        self.prev[after] = before
        self.count[self.queue[pfn]] -= 1
        self.queue[pfn] = NOT_QUEUED
        self.slotted[pfn] = 0

    def move(self, pfn: int, to: int) -> None:
        """The page of frame pfn is in frame `to` now, and keeps its place in the queue.  O(1)."""
        before, after = self.prev[NHEADS + pfn], self.next[NHEADS + pfn]
        self.next[before] = self.prev[after] = NHEADS + to
        self.prev[NHEADS + to], self.next[NHEADS + to] = before, after
        self.queue[to], self.fresh[to], self.lives[to] = self.queue[pfn], self.fresh[pfn], self.lives[pfn]
        self.slotted[to] = self.slotted[pfn]
        self.queue[pfn], self.slotted[pfn] = NOT_QUEUED, 0

    def requeue(self, pfn: int, queue: int) -> None:
        """remove() and enter() in one: most looks of a reclaim end here.  O(1)."""
        after_of, before_of, link, head = self.next, self.prev, NHEADS + pfn, queue - 1
        before, after = before_of[link], after_of[link]
        after_of[before] = after
        before_of[after] = before
        last = before_of[head]
        after_of[last] = before_of[head] = link
        before_of[link] = last
        after_of[link] = head
        self.count[self.queue[pfn]] -= 1
        self.count[queue] += 1
        self.queue[pfn] = queue

    def _head(self, queue: int) -> int:
        """The frame that has waited longest; meaningless when the queue is empty."""
        return self.next[queue - 1] - NHEADS

    def frames(self, queue: int) -> Iterable[int]:
        """The frames of a queue, longest waiting first; the queue may not change meanwhile.  O(1) for each."""
        link = self.next[queue - 1]
        while link >= NHEADS:
            yield link - NHEADS
            link = self.next[link]
