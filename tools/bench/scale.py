"""bench/scale.py: how large a run is."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """The sizes of a full run."""

    quick: bool = False
    files: int = 2000           # how often a metadata operation is done, by all clients together
    listed: int = 100_000       # entries of the directory that is listed
    data_mib: int = 128         # written and read in sequence
    random_mib: int = 32        # written and read at random
    tree: int = 10_000          # files of the tree of one client
    trees: int = 4000           # files of the trees of several clients, together
    tight: str = "4m"           # ram of the mount whose metadata do not fit
    times: int = 8              # metadata there, in ram
    more: int = 2000            # files created in each round then
    idle_seconds: float = 10.0
    clients: tuple[int, ...] = (1, 4)


QUICK = Scale(True, files=24, listed=300, data_mib=4, random_mib=1, tree=40, trees=40, tight="1m", times=2, more=50,
              idle_seconds=0.5, clients=(1, 2))
