"""stresskit: the parts of create_stress.py.

plan.py      what is to be done: how many files where, their names and their bytes
board.py     the counters that the workers write and the tool reads, in shared memory
worker.py    what a worker process does in each phase
runner.py    runs a phase: starts workers, takes samples, stops on errors and signals
probe.py     what is mounted at the target, and the status of a tmpfsd mount
display.py   what is shown while it runs: a progress bar, or plain lines
report.py    what remains when it is done: tables, JSON
plot.py      the picture
"""
