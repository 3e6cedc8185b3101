"""tmpfs: the file system: nodes, directories, file data, attributes, operations.  Knows nothing of FUSE.

Everything that grows with the number of files lives in pages (see layout.py).  filesystem.py makes a file system;
vnops.py has its operations, one function each.
"""
