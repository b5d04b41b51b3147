"""The harness, one per session: it knows the mode, plans and makes VMs, and ends all of them."""

from __future__ import annotations

import threading
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_qemuvm.arch import ARCHITECTURES
from pytest_qemuvm.coherence import BUILT_IN as BUILT_IN_RULES
from pytest_qemuvm.coherence import known_kinds
from pytest_qemuvm.devices.nic import BOOT_ROMS
from pytest_qemuvm.devices.registry import BUILT_IN as BUILT_IN_KINDS
from pytest_qemuvm.errors import AddressInUse, NetworkNotFound, SpecError, nearest
from pytest_qemuvm.host.executables import executables_for
from pytest_qemuvm.host.lease import Origin
from pytest_qemuvm.host.loop import LoopThread
from pytest_qemuvm.host.paths import new_session_tag, sessions_root
from pytest_qemuvm.host.processor import processor_identity
from pytest_qemuvm.host.provision import Provisioner
from pytest_qemuvm.host.saves import FORMAT as SAVE_FORMAT
from pytest_qemuvm.host.saves import SaveStore
from pytest_qemuvm.machine.books import Books
from pytest_qemuvm.machine.catalogue import Catalogue
from pytest_qemuvm.machine.clones import LiveTemplates
from pytest_qemuvm.machine.faults.ledger import FaultLedger
from pytest_qemuvm.machine.faults.timeline import Timeline
from pytest_qemuvm.machine.library import TemplateLibrary
from pytest_qemuvm.machine.making import Blueprint
from pytest_qemuvm.machine.networks.shelf import NetworkShelf
from pytest_qemuvm.machine.observer import Observer
from pytest_qemuvm.machine.pool import POOL, Pool
from pytest_qemuvm.machine.recordings import Recordings
from pytest_qemuvm.machine.register import Register
from pytest_qemuvm.machine.scope import EndOfScope, end_scope
from pytest_qemuvm.machine.services import Services
from pytest_qemuvm.machine.shelf import DiskShelf
from pytest_qemuvm.machine.simulated import SimFaults
from pytest_qemuvm.machine.stock import Stock
from pytest_qemuvm.machine.templates import BuiltGuests, PlannedGuests
from pytest_qemuvm.machine.uses import files_of, image_of
from pytest_qemuvm.machine.vm import VM
from pytest_qemuvm.machine.wardens import Run, Wardens
from pytest_qemuvm.plan import Surroundings
from pytest_qemuvm.qmp.audit import AUDIT_NAME, AuditLog
from pytest_qemuvm.qmp.schemas import SchemaSource
from pytest_qemuvm.spec.names import checked_name
from pytest_qemuvm.spec.suite import NO_SUITE
from pytest_qemuvm.spec.vm import VMSpec, laid_over

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pytest_qemuvm.coherence import Collector, Rule
    from pytest_qemuvm.devices.kind import DeviceKind
    from pytest_qemuvm.host.capabilities import Capabilities
    from pytest_qemuvm.host.memory import MemoryFile
    from pytest_qemuvm.machine.observed import Observed
    from pytest_qemuvm.machine.template import Template
    from pytest_qemuvm.machine.templates import BootSource
    from pytest_qemuvm.spec.boot import KernelBoot
    from pytest_qemuvm.spec.network import Link
    from pytest_qemuvm.spec.settings import Settings
    from pytest_qemuvm.spec.suite import Suite

STATES = ("stopped", "running", "paused", "io-error", "guest-panicked", "shutdown")
"""What ``qemuvm.vms(state=...)`` accepts."""


SESSION = "session"
"""The owner of what lives as long as the session."""


@dataclass(frozen=True, slots=True)
class Extensions:
    """What plugins add to the harness; the built-in ones come the same way."""

    kinds: Sequence[DeviceKind] = BUILT_IN_KINDS
    rules: Sequence[Rule] = BUILT_IN_RULES
    collectors: Mapping[str, Collector] = field(default_factory=dict)


class Harness(Stock):
    """What the fixture ``qemuvm`` gives: the session's mode, its VMs, and the making of them."""

    def __init__(
        self,
        settings: Settings,
        capabilities: Capabilities,
        cache: Path,
        progress: Callable[[str], None],
        suite: Suite = NO_SUITE,
        extensions: Extensions | None = None,
        run: Run | None = None,
        origin: Origin | None = None,
    ) -> None:
        self.settings = settings
        self.capabilities = capabilities
        self.tag = new_session_tag()
        """Marks every process and directory of this session."""
        self.root = sessions_root() / self.tag
        self._publishing = threading.Lock()
        self._loop = LoopThread()
        executables = executables_for(capabilities, cache)
        self._provisioner = Provisioner(self.tag, self.root, origin or Origin(str(Path.cwd())), executables)
        self.recordings = Recordings(self.tag, self.root, self._provisioner)
        """What was planned, and what came of it, where that is kept."""
        self._register = Register(self.recordings.chosen)
        self.sim_faults = SimFaults(executables)
        """What is to go wrong in simulated machines."""
        self._provisioner.faults = self.sim_faults.of
        self._guests: BootSource = (
            BuiltGuests(cache, settings.kernel, progress)
            if executables.run_guests
            else PlannedGuests(cache, settings.kernel)
        )
        self._shelf = DiskShelf(self.disk_dir, self._provisioner)
        self._suite = suite
        self._library = TemplateLibrary(
            self.root / "templates@", suite.templates, self, self._provisioner.sources
        )
        extensions = extensions or Extensions()
        run = run or Run()
        self._audit = AuditLog(self.root / AUDIT_NAME)
        self._wardens = Wardens(
            self.root,
            run,
            self._audit,
            SchemaSource(cache, executables.fingerprint),
            self.disks,
            settings.strict,
            (executables.listing, executables.fingerprint, str(cache)),
        )
        self.live_templates = LiveTemplates(
            SaveStore(cache), self, self._host_key(), settings.start, progress
        )
        """The saved machines that VMs are clones of."""
        self._told = frozenset[str]()
        """What is permitted, as the record says."""
        self.pool = Pool(settings.pool, self, self.live_templates)
        """VMs that are ready before they are asked for."""
        self.faults = FaultLedger(Timeline(), run.acting)
        """What tests have go wrong in machines and networks."""
        self._networks = NetworkShelf(
            self.tag,
            self.faults,
            self._register.get,
            executables.require_guest,
            self._provisioner.links,
            self.root / "captures@",
            is_real=self.network_mode == "real",
        )
        self._services = Services(
            self.tag,
            self.root,
            self._loop,
            self._provisioner,
            self,
            extensions.kinds,
            run.acting,
            self._wardens,
            Catalogue(executables.listing),
            self.live_templates,
            self.faults,
            self._networks,
        )
        self.kinds_of_findings = known_kinds(extensions.rules)
        """Every kind of finding that a check may come to."""
        self._books = Books(
            self.root,
            self._register.all,
            self.pool.still,
            self._shelf,
            self._library,
            self._provisioner,
            self._networks,
            self._audit.path,
        )
        self.observer = Observer(self._books, extensions.rules, extensions.collectors)
        """Checks the session's books."""

    @property
    def mode(self) -> str:
        """``"real"`` or ``"dry-run"``."""
        return self.capabilities.mode

    @property
    def network_mode(self) -> str:
        """``"real"`` or ``"dry-run"`` for networks that need privileges."""
        return "dry-run" if self.settings.network_dry_run or self.mode == "dry-run" else "real"

    @property
    def used_by(self) -> set[str]:
        """Owners for whom a VM was really started."""
        return self._register.used_by

    def spec_for(self, name: str | None, keywords: Mapping[str, Any], where: str) -> VMSpec:
        """Return a VM's spec: its template's keywords, over these the suite's for that name, and the given.

        Below all of them lies the image that the settings name.
        ``where`` names the origin of the given for the error. Raises SpecError and TemplateNotFound.
        """
        known = self._suite.vms.get(name, {}) if name is not None else {}
        wanted = laid_over(known, keywords)
        start = self._library.get(VMSpec().with_keywords(wanted, where).template)
        image = {"image": self.settings.image, "format": self.settings.image_format}
        below = laid_over(image if self.settings.image else {}, start.keywords)
        return VMSpec().with_keywords({**laid_over(below, wanted), "template": start.name}, where)

    def boot_files(self, spec: VMSpec) -> list[Path]:
        """Return the kernel and RAM disk that a VM of that spec boots; none in dry-run."""
        boot = self._guests.boot(spec)
        names = (boot.kernel, boot.initrd) if boot else ()
        return [Path(name) for name in names if name and Path(name).exists()]

    def netboot_files(self) -> KernelBoot:
        """Return ``kernel``, ``initrd`` and ``append`` of the built-in guest, for a boot server of a test's.

        The kernel is one that a boot loader takes, ``append`` its command line; a VM of the template ``tiny``
        that boots them from the network has its agent like any other. Raises GuestUnavailable; in dry-run
        NotSupportedInDryRun.
        """
        return self._guests.netboot()

    def vms(self, state: str | None = None) -> list[VM]:
        """Return the VMs of the session, all or those observed in a state.

        Raises SpecError (a ValueError) for a state that no VM can be in.
        """
        if state is not None and state not in STATES:
            raise SpecError(f"{state!r} is no state of a VM", hint=nearest(state, STATES))
        vms = [vm for vm in self._register.all() if not vm.is_pooled]
        return [vm for vm in vms if state is None or vm.state == state]

    def vm(self, name: str) -> VM:
        """Return a VM by name. Raises VMNotFound."""
        return self._register.get(name)

    def owned_by(self, owner: str) -> list[VM]:
        """Return the VMs that were made for an owner: a test, a module, the session."""
        return self._register.owned_by(owner)

    def create(self, name: str | None, spec: VMSpec, owner: str) -> VM:
        """Plan a VM and register it; nothing is started.

        Raises SpecError for a name or spec that cannot be right, VMStateError for a name that is taken,
        GuestUnavailable where the guest's files are missing.
        """
        return self.make_vm(name, spec, self._library.get(spec.template), owner)

    def create_started(self, name: str | None, spec: VMSpec, owner: str) -> VM:
        """Do what ``create`` does and start the VM; without a name it may be one that the pool has ready."""
        anyone = name is None and self._networks.may_wait(spec.nics)
        vm = self._from_pool(spec, owner) if anyone else None
        if vm is None:
            vm = self.create(name, spec, owner)
        vm.start()
        if anyone:
            self.pool.want(vm, self._networks.shapes(spec.nics))
        return vm

    def _from_pool(self, spec: VMSpec, owner: str) -> VM | None:
        if self.recordings.on:  # what is recorded does not depend on who was faster
            return None
        vm = self.pool.take(spec, self._library.get(spec.template), self._networks.suits)
        if vm is None:
            return None
        try:
            self._networks.unpark(vm.name)
        except (
            AddressInUse,
            NetworkNotFound,
        ):  # another thread has just taken the address, or the network away
            self.pool.let_go(vm)
            return None
        self._register.hand_over(vm, owner)
        self._register.note_start(vm)
        self._publish()
        return vm

    def make_vm(
        self,
        name: str | None,
        spec: VMSpec,
        template: Template,
        owner: str,
        *,
        memory: MemoryFile | None = None,
        links: Mapping[str, Link] | None = None,
    ) -> VM:
        """Do what ``create`` does, from a template that need not be known by name.

        With ``memory`` the VM's memory is in that file, and it is made to be saved. ``links`` say how its
        NICs are connected; None: as its spec says.
        """
        if name is not None:
            checked_name(name, "VM")
            if self._register.is_pooled(name):  # nobody could know that it is taken
                self.pool.clear()
        pooled = owner == POOL
        name = self._register.reserve(name, owner)
        try:
            # One that waits for somebody keeps nobody from deleting its template.
            with nullcontext() if pooled else template.in_use_by(name):
                planned = template.planned(spec)
                # The template watches its own.
                disks = planned.disks[1:] if template.has_image_of(spec) else planned.disks
                images = [image for disk in disks for image in image_of(disk)]
                files_of(images)  # what cannot be used is said before anything is touched
                roms = [BOOT_ROMS[nic.model] for nic in planned.nics if nic.boot]
                self._provisioner.executables.require_roms(roms)
                if links is None:
                    connect = self._networks.park if pooled else self._networks.connect_all
                    links = connect(name, planned.nics)
                blueprint = Blueprint(template, spec, planned, self._world(name, planned, memory, links))
                vm = VM(name, spec, blueprint, self._services, images, memory)
                vm.is_pooled = pooled
                if memory is None and not pooled:
                    self.recordings.planned(owner, vm)
                self._register.add(vm)
        except BaseException:
            self._networks.disconnect(name)
            self._register.release(name)
            raise
        return vm

    def _host_key(self) -> dict[str, Any]:
        """Return what of this host and its QEMU shapes a saved machine; nothing in dry-run."""
        binary, accelerator = self.capabilities.binary, self.capabilities.accelerator
        if self.mode == "dry-run" or binary is None or accelerator is None:
            return {}
        # What a guest under KVM has seen of the processor, it must find again.
        processor = processor_identity() if accelerator.name == "kvm" else ""
        return {"qemu": binary.fingerprint, "processor": processor, "format": SAVE_FORMAT}

    def _world(
        self, name: str, spec: VMSpec, memory: MemoryFile | None, links: Mapping[str, Link]
    ) -> Surroundings:
        binary, accelerator = self.capabilities.binary, self.capabilities.accelerator
        arch = ARCHITECTURES["x86_64"]
        return Surroundings(
            name=name,
            tag=self.tag,
            run_dir=str(self.root / name),
            arch=arch,
            binary=binary.path if binary else f"qemu-system-{arch.system}",
            accelerator=accelerator.name if accelerator else "tcg",
            cpu_model=accelerator.cpu_model if accelerator else "max",
            boot=self._guests.boot(spec),
            monitor=str(self._services.socket_path("qmp")),
            memory="own" if memory is None else "saved",
            links=links,
        )

    def vm_started(self, vm: Observed) -> None:
        """Note that a VM has been launched."""
        self._register.note_start(vm)
        self.recordings.started(vm)
        if self.settings.coherence != "off":
            self.observer.note_start(vm)
        self._publish()

    def template_deleted(self, template: Template) -> None:
        """Note that a template is gone: nobody can want its VMs any more."""
        self.pool.forget(template)

    def _publish(self) -> None:
        """Let ``qemuvm ps`` know what there is, after anything was added; what has gone it sees by itself."""
        with self._publishing:
            content = self.as_dict()
            self._provisioner.publish(content)
            self._told = frozenset(content["rules"]["permitted"])

    def permission_changed(self) -> None:
        """Let other processes know what the test that runs now permits, if that is not what they know."""
        if self._wardens.run.permitted() != self._told:
            self._publish()

    def vm_deleted(self, vm: Observed) -> None:
        """Note that a VM is gone; its name is free."""
        self.observer.note_deleted(vm)
        self._networks.disconnect(vm.name)
        self._register.remove(vm)

    def audited(self, vm: str | None = None) -> list[dict[str, Any]]:
        """Return the audit's lines, of one VM or of all: who sent which QMP command, and what came of it."""
        return self._audit.lines(vm)

    def end(self, owner: str, *, is_test: bool) -> EndOfScope:
        """End what was made for an owner, checked before it goes; see ``scope.end_scope``."""
        return end_scope(self, owner, is_test=is_test)

    def close(self) -> None:
        """Delete what is left and end the threads and processes of the session.

        Raises an ExceptionGroup of what went wrong, after everything has been tried.
        """
        errors: list[Exception] = []

        def attempt(step: Callable[[], object]) -> None:
            try:
                step()
            except Exception as error:  # noqa: BLE001  # all of them are reported below
                errors.append(error)

        self.observer.stop()
        attempt(self.pool.close)
        for step in (*(vm.delete for vm in self._register.all()), *self._library.verifications()):
            attempt(step)
        self.live_templates.close()
        attempt(self._networks.close)
        self._loop.close()
        self._audit.close()
        self._provisioner.close()
        if errors:
            raise ExceptionGroup("the session could not be ended in order", errors)

    def as_dict(self) -> dict[str, Any]:
        """Return the session as plain data, for listings: what was made and for whom."""
        return self._books.listing(self._register.started(), self._wardens.rules())
