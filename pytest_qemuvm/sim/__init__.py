"""The simulated QEMU: a stand-alone program on the standard library alone, launched like the real one.

    python -I -S -E .../pytest_qemuvm/sim/qemu_main.py ARGUMENTS

ARGUMENTS are those of QEMU, without the name of its binary. Descriptors that they name are inherited, files
that they name are opened and locked, and what QEMU would refuse is refused in its words, with its status.

Two variables of the environment decide what QEMU it is, and what goes wrong:

``QEMUVM_SIM_VERSION``
    ``7.2`` or ``10.0``: which of the recorded versions is simulated; the newest where it is not set.
``QEMUVM_SIM_FAULTS``
    A JSON object, or the path of a file that holds one. See ``faults.py`` for its keys.

Nothing of the package imports this, and this imports nothing of the package: ``qemu_main`` puts an empty
module in the place of ``pytest_qemuvm`` first, so that only ``pytest_qemuvm.sim`` is ever loaded. Start-up is
counted in milliseconds, so that modules import little and load recorded data when it is asked for.
"""
