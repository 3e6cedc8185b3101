"""image: a file system that is saved in a file, and mounted from there.  FORMAT.md describes the file."""
