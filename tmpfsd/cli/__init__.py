"""cli: the commands tmpfsd (mount) and tmpfsctl (status, check)."""
