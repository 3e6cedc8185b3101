"""cli: the commands: mount.py is tmpfsd, ctl.py is tmpfsctl."""
