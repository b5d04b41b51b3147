"""The end of a test, a module, a session: look first, then end what was made for it, then clean up."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_qemuvm.coherence import Finding
    from pytest_qemuvm.machine.harness import Harness
    from pytest_qemuvm.machine.hotdevice import HotDevice


@dataclass(slots=True)
class EndOfScope:
    """What came of ending a scope."""

    findings: list[Finding] = field(default_factory=list)
    appeared: frozenset[str] = frozenset()
    """Kinds that any check of the scope has found, the test's own included."""
    remains: dict[Finding, str] = field(default_factory=dict)
    """What could not be cleaned away, and why."""
    errors: list[Exception] = field(default_factory=list)
    """What went wrong while things were ended."""
    checked: bool = False

    def attempt(self, step: Callable[[], object]) -> None:
        """Take a step; what goes wrong is kept, and the next one is taken all the same."""
        try:
            step()
        except Exception as error:  # noqa: BLE001  # all of them are reported
            self.errors.append(error)


def end_scope(harness: Harness, owner: str, *, is_test: bool) -> EndOfScope:
    """End what was made for an owner: a test's node id, a module's, or ``session``.

    Faults heal. What ``hotplug`` and ``attach`` left in VMs that live on is unplugged; in the owner's own VMs
    it goes with them. Then everything is compared; only then VMs, disks and the like go, with what was found.
    """
    observer = harness.observer
    own = harness.owned_by(owner)
    end = EndOfScope(checked=harness.settings.coherence != "off")
    if observer.running and observer.started_by in (None, owner):
        end.attempt(observer.stop)
    for fault in reversed(harness.faults.active(owner=owner)):
        if fault.revives in own:
            harness.faults.let_be(fault)  # nobody waits for a boot of what is deleted in a moment
        else:
            end.attempt(fault.heal)
    for device in _left_plugged(harness, owner):
        end.attempt(device.unplug)
    if end.checked:
        end.attempt(lambda: end.findings.extend(observer.check_scope(None if is_test else own)))
        end.appeared = frozenset(observer.appeared)
        observer.appeared.clear()
    names = {vm.name for vm in own}
    for vm in own:
        end.attempt(vm.delete)
    # What a test has left in a VM that lives on may hold its disks open.
    lasting = [finding for finding in end.findings if finding.vm not in names]
    end.attempt(lambda: end.remains.update(observer.clean(lasting)))
    _remove_things(harness, owner, end)
    harness.faults.timeline.forget(owner)
    if end.findings:
        # What could not be cleaned away is not to be the next test's.
        end.attempt(observer.begin)
    return end


def _remove_things(harness: Harness, owner: str, end: EndOfScope) -> None:
    """Remove what the owner's VMs needed, now that these are gone."""
    for network in harness.networks_owned_by(owner):
        end.attempt(network.discard)
    for disk in harness.disks_owned_by(owner):
        end.attempt(disk.discard)
    for template in harness.templates_owned_by(owner):
        end.attempt(template.delete)


def _left_plugged(harness: Harness, owner: str) -> list[HotDevice]:
    """Return what the owner has left in VMs that are not its own, the last one first."""
    return [
        device
        for vm in harness.vms()
        if vm not in harness.owned_by(owner)
        for device in reversed(vm.devices)
        if device.owner == owner and device.present
    ]
