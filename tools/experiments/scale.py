"""experiments/scale.py: how large a run is."""

from dataclasses import dataclass

FILES_CGROUP = 3_000_000
QUICK_FILES_CGROUP = 3_000
FILES_IMAGE = 1_000_000


@dataclass(frozen=True)
class Scale:
    """quick: sizes for a test; files_cgroup: files of the mount in the cgroup of 128 MiB, 0: no such mounts;
    files_image: files of the tree in an image."""

    quick: bool = False
    files_cgroup: int = FILES_CGROUP
    files_image: int = FILES_IMAGE
