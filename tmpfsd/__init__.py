"""tmpfsd: a tmpfs whose metadata pages out, as a FUSE file system."""

from tmpfsd import compiled

__version__ = "0.1.0"

compiled.install()
