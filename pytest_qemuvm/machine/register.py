"""Which VMs a session has, for whom they were made, and in which test they were started."""

from __future__ import annotations

import itertools
import os
import threading
from typing import TYPE_CHECKING

from pytest_qemuvm.errors import VMNotFound, VMStateError, nearest
from pytest_qemuvm.machine.pool import POOL

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_qemuvm.machine.observed import Observed
    from pytest_qemuvm.machine.vm import VM


class Register:
    """The VMs of a session by name. Every method may be called from any thread."""

    def __init__(self, chosen: Callable[[str], object]) -> None:
        self.used_by: set[str] = set()
        """Owners for whom a VM was really started."""
        self._chosen = chosen
        """Told of each name that is chosen here."""
        self._vms: dict[str, VM] = {}
        self._owners: dict[str, str] = {}
        self._started_by: dict[str, str] = {}
        self._numbers = itertools.count()
        self._lock = threading.Lock()

    def reserve(self, name: str | None, owner: str) -> str:
        """Take a name for a VM that is being made, or choose one. Raises VMStateError if it is taken."""
        with self._lock:
            if name is None:
                name = next(word for number in self._numbers if (word := f"vm{number}") not in self._owners)
                self._chosen(name)
            elif name in self._owners:
                raise VMStateError(f"there is a VM {name!r} already", f"made for {self._owners[name]}")
            # Taken before the lock is let go, so that two threads cannot both have it.
            self._owners[name] = owner
            return name

    def release(self, name: str) -> None:
        """Give back a name of which no VM was made."""
        with self._lock:
            del self._owners[name]

    def add(self, vm: VM) -> None:
        """Add a VM whose name was reserved."""
        with self._lock:
            self._vms[vm.name] = vm

    def remove(self, vm: Observed) -> None:
        """Remove a VM; its name is free."""
        with self._lock:
            if self._vms.get(vm.name) is vm:
                del self._vms[vm.name]
                del self._owners[vm.name]
                self._started_by.pop(vm.name, None)

    def hand_over(self, vm: VM, owner: str) -> None:
        """Make a VM of the pool's an owner's."""
        with self._lock:
            self._owners[vm.name] = owner
            vm.is_pooled = False

    def note_start(self, vm: Observed) -> None:
        """Note for whom a VM has been launched, and in which test: of the pool's in none, yet."""
        # pytest's own word for what it is doing; it names the phase behind the test.
        test = "" if vm.is_pooled else os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0]
        with self._lock:
            self.used_by.add(self._owners[vm.name])
            self._started_by[vm.name] = test

    def is_pooled(self, name: str) -> bool:
        """Return whether a name is that of a VM of the pool's."""
        with self._lock:
            return self._owners.get(name) == POOL

    def all(self) -> list[VM]:
        """Return all VMs, those of the pool among them."""
        with self._lock:
            return list(self._vms.values())

    def get(self, name: str) -> VM:
        """Return a VM that is somebody's. Raises VMNotFound."""
        with self._lock:
            known = [name for name, vm in self._vms.items() if not vm.is_pooled]
            if name in known:
                return self._vms[name]
        raise VMNotFound(f"no VM {name!r} in this session", hint=nearest(name, known) if known else None)

    def owned_by(self, owner: str) -> list[VM]:
        """Return the VMs that were made for an owner."""
        with self._lock:
            return [vm for name, vm in self._vms.items() if self._owners[name] == owner]

    def started(self) -> list[tuple[VM, str, str]]:
        """Return the VMs that were started, with owner and test."""
        with self._lock:
            return [
                (vm, self._owners[name], self._started_by[name])
                for name, vm in self._vms.items()
                if name in self._started_by
            ]
