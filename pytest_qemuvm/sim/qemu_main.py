"""Where the simulated QEMU is entered: run by its path, with QEMU's arguments."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType


def _alone() -> None:
    """Let ``pytest_qemuvm.sim`` be imported without importing what ``pytest_qemuvm`` itself imports."""
    package: ModuleType = type(sys)("pytest_qemuvm")
    package.__path__ = [__file__.rsplit("/", 2)[0]]
    sys.modules["pytest_qemuvm"] = package


if __name__ == "__main__":
    _alone()
    from pytest_qemuvm.sim.process import run

    run(sys.argv[1:])
