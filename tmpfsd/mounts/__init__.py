"""What the commands and the daemon share about mounts: which there are, where their sockets are, how to unmount one.

Mount tables, paths and answers contain what others chose: it stays bytes until a decision is made.  A mount is
identified by its device number and never by its path.  What is printed goes through printable().
"""
