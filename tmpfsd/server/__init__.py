"""server: the FUSE daemon: pyfuse3 operations, request dispatch, control socket, life cycle."""
