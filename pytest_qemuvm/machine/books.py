"""The session's books: what it has, for the coherence check and for those who list sessions from outside."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    from pytest_qemuvm.host.provision import Provisioner
    from pytest_qemuvm.machine.disks import Disk
    from pytest_qemuvm.machine.library import TemplateLibrary
    from pytest_qemuvm.machine.networks.shelf import NetworkShelf
    from pytest_qemuvm.machine.shelf import DiskShelf
    from pytest_qemuvm.machine.vm import VM


class Books:
    """Reads what VMs, disks, templates and the provisioner have, and changes nothing."""

    def __init__(
        self,
        root: Path,
        vms: Callable[[], list[VM]],
        still: AbstractContextManager[object],
        shelf: DiskShelf,
        library: TemplateLibrary,
        provisioner: Provisioner,
        networks: NetworkShelf,
        audit: Path,
    ) -> None:
        self.tag = root.name
        self.root = root
        self.vms = vms
        """Return all VMs, those that wait for somebody among them."""
        self.still = still
        """While this is held, no VM goes by itself."""
        self._shelf = shelf
        self._library = library
        self._provisioner = provisioner
        self._networks = networks
        self._audit = audit

    @property
    def disk_dir(self) -> Path:
        """Where disks are."""
        return self._shelf.directory

    def disks(self) -> list[Disk]:
        """Return all disks."""
        return self._shelf.all()

    def modified_templates(self) -> dict[str, tuple[str, ...]]:
        """Return the changed files of templates by name; what was not touched is not read."""
        return {
            template.name: tuple(str(path) for path in changed)
            for template in self._library.all()
            if (changed := template.changed_files())
        }

    def own_files(self) -> frozenset[Path]:
        """Return the session's own files in its directory: record, audit, captures, what templates have."""
        made = (path for template in self._library.all() for path in template.own_files)
        captures = self._networks.captures.glob("*")
        return frozenset((self._audit, *self._provisioner.own_files, *captures, *made))

    def own_network_devices(self) -> frozenset[str]:
        """Return the network devices of the host that the session has."""
        return frozenset(self._provisioner.links.names)

    def own_processes(self) -> frozenset[int]:
        """Return the pids of the session's own helpers: its reaper."""
        return self._provisioner.helpers

    def listing(self, started: Iterable[tuple[VM, str, str]], rules: Mapping[str, Any]) -> dict[str, Any]:
        """Return the session as plain data: started VMs with owner and test, disks with owners, rules."""
        vms = [
            {
                "name": vm.name,
                "template": vm.spec.template,
                "memory": vm.spec.bytes,
                "cpus": vm.spec.cpus,
                "owner": owner,
                "pooled": vm.is_pooled,
                "test": test,
                "disks": [image.path for image in vm.plan.images],
                "monitor": vm.plan.monitor,
            }
            for vm, owner, test in started
        ]
        networks = [
            {
                "name": network.name,
                "kind": network.kind,
                "subnet": network.subnet,
                "owner": owner,
                "vms": {joint.vm: joint.link.ip for joint in network.joints()},
            }
            for network, owner in self._networks.with_owners()
        ]
        disks = [
            {
                "name": disk.name,
                "path": str(disk.path),
                "format": disk.record.format,
                "size": disk.size,
                "owner": owner,
            }
            for disk, owner in self._shelf.with_owners()
        ]
        return {
            "tag": self.tag,
            "mode": self._provisioner.mode,
            "vms": vms,
            "disks": disks,
            "networks": networks,
            "rules": rules,
        }
