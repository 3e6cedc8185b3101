"""Top-level fixtures of all tests: a hang or a crash shows where."""

import faulthandler

faulthandler.enable()
