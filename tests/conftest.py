"""Top-level fixtures of all tests: a hang or a crash shows where."""

import faulthandler

# Here and not when its plugin first needs it: after the gc.freeze() of tests/fs it finds no reference to trio's random
# generator, and warns.
import hypothesis  # noqa: F401

faulthandler.enable()
