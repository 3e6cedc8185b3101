"""bench: tmpfsd beside the kernel's tmpfs, the floor and other FUSE servers, measured in one run.

    python -m tools.bench [--quick] [--only metadata,idle] [--rounds N] [--nullfs FILE.c] [--example FILE.py]
                          [--peer NAME=COMMAND] [--out DIR] [--render]

Picture     __main__.py  what is to be run; a bar of progress; results.json, into which each part is merged
            servers.py   what is measured: the servers, started and ended, pinned or free
            client.py    a client process: does an operation on a mount, and times it
            clients.py   the clients of one part, seen from the benchmark, with limits of time
            sheet.py     operations, their figures, and the rounds in which they are measured
            metadata.py, listing.py, data.py, trees.py, pressure.py, idle.py     a part each
            others.py    how busy others kept the machine
            goals.py     ratios, and the figures to reach
            render.py, chart.py      the report and its picture
Invariants  B1 Only client processes touch a mount, and each access has a time limit: after it the server is killed,
               which frees any process that waits for it.
            B2 However the run ends, servers, mounts, clients and the temporary directory are gone (except by SIGKILL).
            B3 What is kept reveals no places: no path and no host name.
"""
