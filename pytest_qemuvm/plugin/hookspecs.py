"""Hooks that this plugin offers to other plugins and conftest files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_qemuvm.coherence import Collector, Rule
    from pytest_qemuvm.devices.kind import DeviceKind


@pytest.hookspec
def pytest_qemuvm_device_kinds(config: pytest.Config) -> Sequence[DeviceKind]:  # type: ignore[empty-body]
    """Return kinds of devices that ``vm.hotplug`` is to know; called once, before the first VM.

    The built-in kinds come through this hook as well. A kind whose spec somebody else has brought already
    goes before theirs.
    """


@pytest.hookspec
def pytest_qemuvm_coherence_rules(config: pytest.Config) -> Sequence[Rule]:  # type: ignore[empty-body]
    """Return rules of the coherence check; called once, before the first VM.

    The built-in rules come through this hook as well. The kinds that a rule names can be declared with the
    marker ``qemuvm_expect``.
    """


@pytest.hookspec
def pytest_qemuvm_coherence_facts(  # type: ignore[empty-body]
    config: pytest.Config,
) -> Mapping[str, Collector]:
    """Return collectors of facts by name; what each returns is in ``Facts.extra`` under that name.

    A collector is called with the ``Scene`` and the ``Ledger`` at each check. One that raises is a finding
    ``check_error``.
    """
