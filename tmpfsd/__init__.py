"""tmpfsd: a tmpfs whose metadata pages out, as a FUSE file system."""

__version__ = "0.1.0"
