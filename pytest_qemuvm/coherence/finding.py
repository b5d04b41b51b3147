"""What a coherence check finds: one disagreement between what was recorded and what is the case."""

from __future__ import annotations

from dataclasses import dataclass, field

from pytest_qemuvm.errors import SpecError, nearest

HINTS = {
    "vm_state_mismatch": "stop VMs by their own methods; after a kill from outside, restart() or delete()",
    "missing_disk": "delete disks by disk.delete(), never their files",
    "orphan_disk": "make disks by disk_factory, and other files outside the session's directory",
    "disk_state_inconsistent": "attach and detach disks by vm.attach() and vm.detach()",
    "orphan_process": "end every process that the test starts",
    "leaked_block_node": "remove it: vm.qmp.execute('blockdev-del', {'node-name': ...})",
    "leaked_device": "plug by vm.hotplug(), or remove it by device_del and wait for DEVICE_DELETED",
    "leaked_netdev": "remove it: vm.qmp.execute('netdev_del', {'id': ...})",
    "leaked_chardev": "remove it: vm.qmp.execute('chardev-remove', {'id': ...})",
    "leaked_object": "remove it: vm.qmp.execute('object-del', {'id': ...})",
    "leaked_job": "wait until the job has ended, and dismiss it",
    "leaked_fdset": "remove it: vm.qmp.execute('remove-fd', {'fdset-id': ...})",
    "foreign_lock": "close the disk's file in the other process before the test ends",
    "template_modified": "write to overlays, never to the image of a template",
    "broken_backing_chain": "leave the images that a disk rests on where they are",
    "orphan_socket": "unlink the sockets that the test makes",
    "orphan_pidfile": "remove the pid files that the test makes",
    "orphan_lock": "remove the lock files that the test makes",
    "orphan_tap": "remove the network devices that the test makes",
    "zombie": "wait for every child that the test starts",
    "unseen_panic": "look at the panic: pytest.raises(VMStateError), vm.state, or a wait for GUEST_PANICKED",
    "check_error": "the check itself failed; what it could not see is not known to be in order",
}
"""Every built-in kind of finding, with what a test does to avoid it."""

KINDS = frozenset(HINTS)


@dataclass(frozen=True, slots=True)
class Finding:
    """One disagreement. Two findings are equal if they say the same."""

    kind: str
    resource: str
    """What it is about: ``vm0``, ``vm0: block node extra``, a path, ``process 4711``."""
    expected: str
    found: str
    hint: str = ""
    """How to change the test; for built-in kinds it is known."""
    vm: str | None = field(default=None, compare=False, repr=False)
    """The VM it is about, if it is about one."""
    key: object = field(default=None, compare=False, repr=False)
    """What the clean-up needs to know: an id, a path, a process."""

    def __post_init__(self) -> None:
        if not self.hint:
            object.__setattr__(self, "hint", HINTS.get(self.kind, ""))

    def __str__(self) -> str:
        text = f"{self.kind}: {self.resource}\n    expected: {self.expected}\n    found:    {self.found}"
        return f"{text}\n    to fix:   {self.hint}" if self.hint else text


def checked_kind(kind: object, known: frozenset[str] = KINDS) -> str:
    """Return the name of a kind. Raises SpecError, with the nearest, for one that nobody finds."""
    if not isinstance(kind, str) or kind not in known:
        raise SpecError(f"{kind!r} is no kind of finding", hint=nearest(str(kind), known))
    return kind
