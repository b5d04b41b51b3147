"""The pytest plugin: its options, its fixtures, and the decision about the mode.

This module is imported by every pytest run on the machine. It imports nothing of the harness but settings and
what was proven of the host; the rest comes with the first VM.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_qemuvm.plugin.fixtures import (
    _qemuvm_of_module,
    _qemuvm_of_session,
    _qemuvm_of_test,
    assert_plan,
    chaos,
    coherence,
    disk_factory,
    module_network_factory,
    module_vm_factory,
    network_factory,
    qemuvm,
    qmp,
    session_network_factory,
    session_template_factory,
    session_vm_factory,
    sim_faults,
    template_factory,
    vm,
    vm_factory,
    vm_spec,
)
from pytest_qemuvm.plugin.hooks import SessionHooks
from pytest_qemuvm.plugin.state import configure, worker_data
from pytest_qemuvm.spec.settings import OPTIONS

if TYPE_CHECKING:
    from pytest_qemuvm.coherence import Rule
    from pytest_qemuvm.devices.kind import DeviceKind

__all__ = [
    "_qemuvm_of_module",
    "_qemuvm_of_session",
    "_qemuvm_of_test",
    "assert_plan",
    "chaos",
    "coherence",
    "disk_factory",
    "module_network_factory",
    "module_vm_factory",
    "network_factory",
    "qemuvm",
    "qmp",
    "session_network_factory",
    "session_template_factory",
    "session_vm_factory",
    "sim_faults",
    "template_factory",
    "vm",
    "vm_factory",
    "vm_spec",
]

MARKER = (
    "qemuvm(template=, memory=, cpus=, machine=, disks=, nics=, needs=, ...): "
    "the VM that the test gets, and what it cannot do without"
)
EXPECT_MARKER = (
    "qemuvm_expect(kind, ...): what the coherence check is to find at the test's end; "
    "a kind that it does not find fails the test"
)
ALLOW_MARKER = (
    "qemuvm_allow(command, ...): QMP commands that the test may send although they are blocked by default"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add one option and one ini value for each setting."""
    group = parser.getgroup("qemuvm", "virtual machines for tests")
    for option in OPTIONS:
        if option.flag:
            group.addoption(option.flag_name, action="store_true", default=False, help=option.help)
        elif option.name == "plan":
            # Without a file it prints.
            group.addoption(
                option.flag_name, nargs="?", const="-", default=None, metavar="FILE", help=option.help
            )
        else:
            metavar = option.metavar or f"{{{','.join(option.choices or ())}}}"
            group.addoption(option.flag_name, default=None, metavar=metavar, help=option.help)
        parser.addini(option.ini, f"{option.flag_name}: {option.help}", default="")


def pytest_configure(config: pytest.Config) -> None:
    """Decide settings and mode, once; a demand that cannot be met stops the session here."""
    config.addinivalue_line("markers", MARKER)
    config.addinivalue_line("markers", EXPECT_MARKER)
    config.addinivalue_line("markers", ALLOW_MARKER)
    if config.option.help or getattr(config.option, "version", 0):
        return
    config.pluginmanager.register(SessionHooks(configure(config)), "qemuvm-session")


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: object) -> None:
    """Hand the decision to an xdist worker, which must not decide again."""
    node.workerinput["qemuvm"] = worker_data(node.config)  # type: ignore[attr-defined]


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Offer our own hooks."""
    from pytest_qemuvm.plugin import hookspecs  # noqa: PLC0415

    pluginmanager.add_hookspecs(hookspecs)


def pytest_qemuvm_device_kinds() -> tuple[DeviceKind, ...]:
    """Return the built-in kinds of devices."""
    from pytest_qemuvm.devices.registry import BUILT_IN  # noqa: PLC0415  # the first VM pays for it

    return BUILT_IN


def pytest_qemuvm_coherence_rules() -> tuple[Rule, ...]:
    """Return the built-in rules of the coherence check."""
    from pytest_qemuvm.coherence import BUILT_IN  # noqa: PLC0415  # the first VM pays for it

    return BUILT_IN
