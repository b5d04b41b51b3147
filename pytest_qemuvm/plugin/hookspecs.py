"""Hooks that this plugin offers to other plugins and conftest files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_qemuvm.devices.kind import DeviceKind


@pytest.hookspec
def pytest_qemuvm_device_kinds(config: pytest.Config) -> Sequence[DeviceKind]:  # type: ignore[empty-body]
    """Return kinds of devices that ``vm.hotplug`` is to know; called once, before the first VM.

    The built-in kinds come through this hook as well. A kind whose spec somebody else has brought already
    goes before theirs.
    """
