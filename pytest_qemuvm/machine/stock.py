"""What a session has beside its VMs: disks, networks and templates. They are made and found by name here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_qemuvm.errors import SpecError, nearest
from pytest_qemuvm.spec.devices import DiskSpec

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pytest_qemuvm.machine.disks import Disk
    from pytest_qemuvm.machine.library import TemplateLibrary
    from pytest_qemuvm.machine.networks.network import Network
    from pytest_qemuvm.machine.networks.shelf import NetworkShelf
    from pytest_qemuvm.machine.shelf import DiskShelf
    from pytest_qemuvm.machine.template import Template
    from pytest_qemuvm.spec.network import NetworkSpec
    from pytest_qemuvm.spec.suite import Suite
    from pytest_qemuvm.spec.template import TemplateSpec


class Stock:
    """The part of the harness that has things which are no machines."""

    root: Path
    _shelf: DiskShelf
    _library: TemplateLibrary
    _networks: NetworkShelf
    _suite: Suite

    def _publish(self) -> None:
        """Let ``qemuvm ps`` know what there is, after anything was added."""
        raise NotImplementedError

    @property
    def disk_dir(self) -> Path:
        """Where the files of ``disk_factory`` are."""
        return self.root / "disks@"

    def disks(self, state: str | None = None) -> list[Disk]:
        """Return the disks of the session, all or those ``available`` or ``attached``.

        Raises SpecError (a ValueError) for any other state.
        """
        if state not in (None, "available", "attached"):
            raise SpecError(
                f"{state!r} is no state of a disk", hint=nearest(str(state), ("available", "attached"))
            )
        return [disk for disk in self._shelf.all() if state is None or disk.state == state]

    def disk(self, name: str) -> Disk:
        """Return a disk by name. Raises DiskNotFound."""
        return self._shelf.get(name)

    def create_disk(self, spec: DiskSpec, name: str | None, owner: str) -> Disk:
        """Make a disk; its file is there, with that virtual size, when this returns. Raises DiskExists."""
        disk = self._shelf.make(spec, name, owner)
        self._publish()
        return disk

    def make_disk(self, name: str | None, owner: str, keywords: Mapping[str, Any]) -> Disk:
        """Make a disk as ``disk_factory`` is asked for it, over what the suite's file says of that name.

        With a template it is an overlay on the template's image, of the same size unless told otherwise.
        """
        known = self._suite.disks.get(name, {}) if name is not None else {}
        wanted = {**known, **{key: value for key, value in keywords.items() if value is not None}}
        template = wanted.pop("template", None)
        if template is None:
            return self.create_disk(DiskSpec(**{"size": "64M", **wanted}), name, owner)
        start = self._library.get(template)
        with start.in_use_by(name or "a disk that is being made"):
            spec, image = start.planned_disk(wanted)
            disk = self._shelf.make(spec, name, owner, (start.name, image))
        self._publish()
        return disk

    def networks(self) -> list[Network]:
        """Return the networks of the session."""
        return self._networks.all()

    def network(self, name: str) -> Network:
        """Return a network by name. Raises NetworkNotFound."""
        return self._networks.get(name)

    def create_network(self, name: str | None, spec: NetworkSpec, owner: str) -> Network:
        """Make a network; VMs can be connected to it when this returns. Raises NetworkExists, SpecError."""
        network = self._networks.make(name, spec, owner)
        self._publish()
        return network

    def networks_owned_by(self, owner: str) -> list[Network]:
        """Return the networks that were made for an owner."""
        return self._networks.all(owner)

    def template(self, name: str) -> Template:
        """Return a template by name: a built-in one, one of the suite's file, or one that a test made.

        Raises TemplateNotFound.
        """
        return self._library.get(name)

    def templates(self) -> list[Template]:
        """Return the templates that were made in this session, the suite's as soon as they were asked for."""
        return self._library.all()

    def create_template(self, name: str, spec: TemplateSpec, owner: str) -> Template:
        """Make a template; see ``TemplateLibrary.make``."""
        return self._library.make(name, spec, owner)

    def templates_owned_by(self, owner: str) -> list[Template]:
        """Return the templates that were made for an owner, the last one first: it may rest on the others."""
        return self._library.all(owner)[::-1]

    def disks_owned_by(self, owner: str) -> list[Disk]:
        """Return the disks that were made for an owner."""
        return self._shelf.all(owner)
