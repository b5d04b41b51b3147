"""Pytest fixtures that give a test a real QEMU machine of its own.

Nothing is imported before it is asked for: a suite that never wants a VM should not pay for one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_qemuvm.errors import LaunchError, QemuVMError
    from pytest_qemuvm.guest.channel import ExecResult
    from pytest_qemuvm.machine.vm import VM
    from pytest_qemuvm.spec.devices import (
        CdromSpec,
        CpuSpec,
        DiskSpec,
        DriverSpec,
        MemorySpec,
        NicSpec,
        RngSpec,
        SerialSpec,
        UsbSpec,
    )
    from pytest_qemuvm.spec.faults import (
        CrashAfter,
        CrashAtLaunch,
        DisconnectAfter,
        EventStorm,
        GuestModel,
        HangAfter,
        HangAtLaunch,
        RefuseUnplug,
        SlowReplies,
        SplitPackets,
    )
    from pytest_qemuvm.spec.vm import VMSpec

__version__ = "0.1.0"

__all__ = [
    "VM",
    "CdromSpec",
    "CpuSpec",
    "CrashAfter",
    "CrashAtLaunch",
    "DisconnectAfter",
    "DiskSpec",
    "DriverSpec",
    "EventStorm",
    "ExecResult",
    "GuestModel",
    "HangAfter",
    "HangAtLaunch",
    "LaunchError",
    "MemorySpec",
    "NicSpec",
    "QemuVMError",
    "RefuseUnplug",
    "RngSpec",
    "SerialSpec",
    "SlowReplies",
    "SplitPackets",
    "UsbSpec",
    "VMSpec",
]

_HOMES = {
    "VM": "pytest_qemuvm.machine.vm",
    "CdromSpec": "pytest_qemuvm.spec.devices",
    "CpuSpec": "pytest_qemuvm.spec.devices",
    "MemorySpec": "pytest_qemuvm.spec.devices",
    "DiskSpec": "pytest_qemuvm.spec.devices",
    "DriverSpec": "pytest_qemuvm.spec.devices",
    "ExecResult": "pytest_qemuvm.guest.channel",
    "NicSpec": "pytest_qemuvm.spec.devices",
    "LaunchError": "pytest_qemuvm.errors",
    "QemuVMError": "pytest_qemuvm.errors",
    "RngSpec": "pytest_qemuvm.spec.devices",
    "SerialSpec": "pytest_qemuvm.spec.devices",
    "UsbSpec": "pytest_qemuvm.spec.devices",
    "VMSpec": "pytest_qemuvm.spec.vm",
    "CrashAfter": "pytest_qemuvm.spec.faults",
    "CrashAtLaunch": "pytest_qemuvm.spec.faults",
    "DisconnectAfter": "pytest_qemuvm.spec.faults",
    "EventStorm": "pytest_qemuvm.spec.faults",
    "GuestModel": "pytest_qemuvm.spec.faults",
    "HangAfter": "pytest_qemuvm.spec.faults",
    "HangAtLaunch": "pytest_qemuvm.spec.faults",
    "RefuseUnplug": "pytest_qemuvm.spec.faults",
    "SlowReplies": "pytest_qemuvm.spec.faults",
    "SplitPackets": "pytest_qemuvm.spec.faults",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used (PEP 562)."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415

    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
