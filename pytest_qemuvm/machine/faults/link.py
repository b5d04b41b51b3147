"""A cable that is pulled."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from pytest_qemuvm.guest import waits
from pytest_qemuvm.host.deadline import Deadline
from pytest_qemuvm.machine.faults.base import FaultsOfOneVM
from pytest_qemuvm.machine.nics import find_nic

if TYPE_CHECKING:
    from contextlib import ExitStack

    from pytest_qemuvm.machine.faults.ledger import Fault
    from pytest_qemuvm.machine.hotdevice import HotDevice
    from pytest_qemuvm.machine.live import Live

CARRIER_SECONDS = 30.0
"""How long a guest may take to notice; it takes milliseconds."""


class LinkFaults(FaultsOfOneVM):
    """What can go wrong with the NICs of one VM."""

    def link_down(self, nic: HotDevice | int = 0) -> Fault:
        """Pull the cable of a NIC: the guest loses its carrier.

        ``nic`` is its number, or what ``hotplug`` gave.
        Where there is a guest that can be asked it has noticed when this returns, and again when it has
        healed. Raises NotRunning, SpecError for a NIC that the VM does not have.
        """
        vm = self._vm
        live = vm.running()
        device = find_nic(live, nic)

        def act(undo: ExitStack) -> None:
            undo.callback(partial(_set_link, live, device, up=True))
            _set_link(live, device, up=False)

        return self._ledger.inject(f"link of {device.id!r} of VM {vm.name!r} down", live, act)


def _set_link(live: Live, device: HotDevice, *, up: bool) -> None:
    """Set a link up or down, and wait until the guest, if there is one that runs, knows."""
    if device not in live.hotplug.devices:
        return  # it was unplugged meanwhile, cable and all
    deadline = Deadline.after(CARRIER_SECONDS)
    live.qmp.execute("set_link", {"name": device.id, "up": up}, timeout=deadline)
    if live.channel is None or live.qmp.execute("query-status", timeout=deadline)["status"] != "running":
        return
    # An interface that is not up has no carrier to read, whatever its cable does.
    look = (
        f"for nic in /sys/class/net/*; do read -r mac <$nic/address; [ $mac = {device.mac} ] || continue; "
        f"carrier={int(up)}; read -r carrier <$nic/carrier; [ $carrier = {int(up)} ]; exit; done; false"
    )
    waits.until_succeeds(live.channel, look, deadline, interval=0.01)
