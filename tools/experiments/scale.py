"""experiments/scale.py: how large a run is."""

from dataclasses import dataclass

FILES_CGROUP = 3_000_000
QUICK_FILES_CGROUP = 3_000


@dataclass(frozen=True)
class Scale:
    """quick: sizes for a test; files_cgroup: files of the mount in the cgroup of 128 MiB, 0 for no such mounts."""

    quick: bool = False
    files_cgroup: int = FILES_CGROUP
