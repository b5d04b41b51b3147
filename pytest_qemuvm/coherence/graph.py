"""QEMU's own account of what it has: one round of questions, sent together."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from pytest_qemuvm.coherence.facts import Graph

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_qemuvm.host.deadline import Deadline
    from pytest_qemuvm.qmp import Qmp

_QUESTIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("query-status", {}),
    ("query-named-block-nodes", {"flat": True}),
    ("qom-list", {"path": "/machine/peripheral"}),
    ("qom-list", {"path": "/machine/peripheral-anon"}),
    ("query-chardev", {}),
    ("qom-list", {"path": "/objects"}),
    ("query-jobs", {}),
    ("query-fdsets", {}),
    # Network backends are in no other list (QEMU 7.2 to 10.0).
    ("human-monitor-command", {"command-line": "info network"}),
)
_NETWORK = re.compile(r"^(?: \\ )?(?:(\S+): )?(\S+): index=\d+,type=(\w+)", re.MULTILINE)
"""The name and the kind of a backend or an interface; before that, if it is on a hub, its port there."""
_ALONE = re.compile(r"^ \\ (\S+)\r?$", re.MULTILINE)
"""A port of a hub that nothing is on."""
_FILE_DRIVERS = ("file", "host_device")


def read_graph(qmp: Qmp, deadline: Deadline) -> Graph:
    """Ask a QEMU for everything it has. Raises QmpError where it does not answer."""
    return ask_for_graph(qmp, deadline)()


def ask_for_graph(qmp: Qmp, deadline: Deadline) -> Callable[[], Graph]:
    """Ask, and return what waits for the answer: other things can be looked at while QEMU gives it.

    Both raise QmpError where it does not answer.
    """
    calls = qmp.pose(_QUESTIONS)
    return lambda: _graph(qmp.answers(calls, deadline))


def _graph(answers: list[Any]) -> Graph:
    status, nodes, devices, nameless, chardevs, objects, jobs, fdsets, network = answers
    return Graph(
        status=status["status"],
        block_nodes=frozenset(name for node in nodes if not (name := node["node-name"]).startswith("#")),
        images=frozenset(str(node["file"]) for node in nodes if node["drv"] in _FILE_DRIVERS),
        devices=_children(devices) | {f"anonymous {name}" for name in _children(nameless)},
        netdevs=_netdevs(network),
        chardevs=frozenset(entry["label"] for entry in chardevs),
        objects=_children(objects),
        jobs=frozenset(job["id"] for job in jobs),
        fdsets=frozenset(str(fdset["fdset-id"]) for fdset in fdsets),
    )


def _netdevs(network: str) -> frozenset[str]:
    """Return all network backends of which ``info network`` tells."""
    found = _NETWORK.findall(network)
    backends = {name for _, name, kind in found if kind != "nic"}
    return frozenset(backends | {port for port, *_ in found if port} | set(_ALONE.findall(network)))


def _children(entries: list[dict[str, str]]) -> frozenset[str]:
    return frozenset(entry["name"] for entry in entries if entry["type"].startswith("child<"))
