"""experiments: the three questions of the mail of 2006, answered by measurement.

    python -m tools.experiments [--quick] [--only E1,E3] [--out DIR] [--render] [--files-cgroup N]

Picture     __main__.py  what is to be run; a bar of progress; results.json, into which each part is merged
            child.py     one job in a process of its own, so that its memory is its own
            drive.py     files on a Mount without FUSE, timed
            e1.py ...    an experiment each: its jobs, and what its report says of their results
            report.py    Markdown; claims, which are stated only if the figures support them
            trees.py     trees of real shape (E4)
            fuse.py, cgroup.py, creator.py    real mounts in a memory cgroup (E1)
"""
