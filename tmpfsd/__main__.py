"""python -m tmpfsd: the same as the command tmpfsd."""

import sys

from tmpfsd.cli.mount import main

if __name__ == "__main__":
    sys.exit(main())
