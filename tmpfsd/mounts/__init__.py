"""What the commands and the daemon share about mounts: which there are, where their sockets are, how one is taken away.

Whatever stands in a mount table, a path or an answer was chosen by somebody else: it is bytes until a decision is made.
A mount is its device number and never its path.  What is printed goes through printable().
"""
