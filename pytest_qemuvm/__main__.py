"""``python -m pytest_qemuvm`` is the same as ``qemuvm``."""

from __future__ import annotations

import sys

from pytest_qemuvm.cli import main

if __name__ == "__main__":
    sys.exit(main())
