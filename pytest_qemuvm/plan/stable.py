"""Plans that can be compared: what differs from run to run is replaced by what it is.

Tags, directories, sockets of the session and addresses made from them say nothing of what a test does, and
names that the harness gave count how many it gave before. In a stable plan they read ``<session>``,
``<tmp>``, ``<vm0>``, ``<mac0>``, numbered in the order in which a test's plans show them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from pytest_qemuvm.plan.identity import mac_address

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

_COUNTED = (
    (re.compile(r"(?<=/)((?:qmp|serial)@)\d+"), r"qmp|serial"),
    (re.compile(r"\b(disk-)\d+\b"), "disk"),
)
_TEMPORARY = re.compile(r"/[^\s\"',=]*?/pytest-of-[^/\s]+/pytest-\d+(?:/popen-gw\d+)?")
_HOST_WORDS = {
    "-accel": "<accelerator>",
    "-cpu": "<cpu>",
    "-kernel": "<tiny>/vmlinux",
    "-initrd": "<tiny>/initramfs",
    "-append": "<tiny>",
}
"""Options whose value is this host's, and what stands for it."""
_MAC = re.compile(r"52:54(?::[0-9a-f]{2}){4}")
_MACS_OF_A_VM = 64
"""Addresses of one VM, and as many of what is plugged into it, that are known for the harness's choice."""


class Stable:
    """Makes the plans of one test stable; what it has numbered keeps its number.

    ``places`` are directories by what is written for them, ``tag`` is the session's, ``given`` are the names
    of VMs that the harness chose.
    """

    def __init__(self, tag: str, places: Mapping[str, str], given: Iterable[str] = ()) -> None:
        # The longest first: one may lie in another.
        words = sorted(
            ((path, word) for word, path in places.items() if path), key=lambda pair: -len(pair[0])
        )
        self._words = [*words, (tag, "<tag>")]
        self._names = {name: f"<vm{number}>" for number, name in enumerate(given)}
        self._tag = tag
        self._derived: set[str] = set()
        self._macs: dict[str, str] = {}
        self._numbers: dict[str, dict[str, str]] = {}
        self._own = (
            re.compile(rf"(?<![\w.-])(?:{'|'.join(map(re.escape, self._names))})(?![\w.-])")
            if self._names
            else None
        )

    def knows(self, vm: str) -> None:
        """Note a VM, whose addresses are to be replaced where they are the harness's choice."""
        for name in (vm, f"{vm}/hot"):
            self._derived.update(mac_address(self._tag, name, index) for index in range(_MACS_OF_A_VM))

    def value(self, value: Any) -> Any:
        """Return a JSON value with all texts in it made stable."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self.text(key): self.value(each) for key, each in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.value(each) for each in value]
        return value

    def text(self, text: str) -> str:
        """Return a text made stable."""
        for path, word in self._words:
            text = text.replace(path, word)
        text = _TEMPORARY.sub("<tmp>", text)
        for pattern, kind in _COUNTED:
            text = pattern.sub(self._counter(kind), text)
        if self._own is not None:
            text = self._own.sub(lambda found: self._names[found[0]], text)
        return _MAC.sub(self._mac, text)

    def _mac(self, found: re.Match[str]) -> str:
        """Return what stands for an address, if it is one that the harness chose."""
        if found[0] not in self._derived:
            return found[0]
        return self._macs.setdefault(found[0], f"<mac{len(self._macs)}>")

    def _counter(self, kind: str) -> Callable[[re.Match[str]], str]:
        seen = self._numbers.setdefault(kind, {})
        return lambda found: seen.setdefault(found[0], f"<{found[1]}{len(seen)}>")


def without_host(argv: Sequence[str], program: str) -> list[str]:
    """Return a command line without what is this host's: the binary, the accelerator, the built-in guest."""
    words = [program, *argv[1:]]
    return [_HOST_WORDS.get(before, word) for before, word in zip(["", *words[:-1]], words, strict=True)]
