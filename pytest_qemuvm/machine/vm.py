"""The VM: the handle that a test holds."""

from __future__ import annotations

from pytest_qemuvm.machine.inside import Inside
from pytest_qemuvm.machine.outside import Outside


class VM(Inside, Outside):
    """A virtual machine of a test, made by ``vm_factory``.

    Its life is in ``lifecycle``, what a test does in its guest in ``inside``, what it does to it from outside
    in ``outside``.
    """
