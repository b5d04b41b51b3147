"""Fixtures of the project's own tests."""

import signal

pytest_plugins = ["pytester"]

# A shell starts background jobs with the interrupt signal ignored, and children inherit that: without this,
# tests of Ctrl-C would wait for ever in `sh run.sh tests &`.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
