"""What a suite names in ``qemuvm.yaml``. Reading the file is another module's: few suites have one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_qemuvm.spec.template import TemplateSpec


@dataclass(frozen=True, slots=True)
class Suite:
    """VMs, templates and disks by name."""

    vms: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Keywords of ``vm_factory`` for a VM of that name."""
    templates: Mapping[str, TemplateSpec] = field(default_factory=dict)
    disks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Keywords of ``disk_factory`` for a disk of that name."""


NO_SUITE = Suite()
