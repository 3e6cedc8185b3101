"""uvm: memory with a page daemon.  Frames, address space, page table, faults, swap.

Knows nothing of files.  The protocol between frames, swap and the daemon is in
uvm/README.md; the words are UVM's.
"""
