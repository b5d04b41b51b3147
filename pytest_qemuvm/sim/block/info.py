"""Nodes as ``query-named-block-nodes`` and ``query-block`` tell of them."""

from __future__ import annotations

import os

from pytest_qemuvm.sim.qmpjson import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pytest_qemuvm.sim.block.nodes import Node

_STRONG = ("size", "latency-ns", "read-zeroes", "offset", "locking", "throttle-group")
"""Options without which the same node could not be opened by its file name."""


def exact_name(node: Node) -> str:
    """Return the file name by which a node could be opened again, or nothing where none would do."""
    if node.driver in {"file", "host_device"}:
        return node.path
    if node.driver in {"null-co", "null-aio"}:
        return f"{node.driver}://" if not _strong(node) else ""
    below = node.child("file")
    assert below is not None
    if _strong(node) or backing_overridden(node):
        return ""
    return exact_name(below)


def filename(node: Node) -> str:
    """Return the name that QEMU gives a node: a path, or its options as JSON."""
    return exact_name(node) or "json:" + dumps(_full(node))


def backing_overridden(node: Node) -> bool:
    """Whether a node rests on something else than its image says."""
    if node.header is None:
        return False
    backing = node.child("backing")
    written = node.header.backing
    if backing is None:
        return bool(written)
    return bool(filename(backing) != _absolute(node, written))


def _absolute(node: Node, written: str) -> str:
    below = node.child("file")
    if not written or written.startswith("/") or below is None:
        return written
    return os.path.join(os.path.dirname(below.path), written)


def _strong(node: Node) -> dict[str, Any]:
    return {key: node.options[key] for key in _STRONG if key in node.options}


def _full(node: Node) -> dict[str, Any]:
    full: dict[str, Any] = {}
    if backing_overridden(node):
        backing = node.child("backing")
        full["backing"] = _full(backing) if backing is not None else None
    full |= {"driver": node.driver, **_strong(node)}
    if node.path:
        full["filename"] = node.path
    below = node.child("file")
    if below is not None:
        full["file"] = _full(below)
    return full


def image(node: Node, version: tuple[int, int], *, flat: bool = False) -> dict[str, Any]:
    """Return what is in a node, and in those that it rests on."""
    found: dict[str, Any] = {
        "virtual-size": (node.size + 511) & ~511,
        "filename": filename(node),
        "format": node.driver,
        "actual-size": _actual_size(node),
    }
    header = node.header
    if _has_file(node):
        found["dirty-flag"] = header.dirty if header is not None else False
    if header is not None:
        found["cluster-size"] = header.cluster_size
        found["format-specific"] = {"type": "qcow2", "data": _qcow2(node)}
        if header.backing:
            found["backing-filename"] = header.backing
            found["full-backing-filename"] = _absolute(node, header.backing)
        if header.backing_format:
            found["backing-filename-format"] = header.backing_format
    elif version >= (8, 0) and node.driver == "file":
        found["format-specific"] = {"type": "file", "data": {}}
    backing = node.child("backing")
    if backing is not None and not flat:
        found["backing-image"] = image(backing, version)
    return found


def _has_file(node: Node) -> bool:
    if node.driver in {"file", "host_device"}:
        return True
    below = node.child("file")
    return below is not None and _has_file(below)


def _qcow2(node: Node) -> dict[str, Any]:
    header = node.header
    data = {
        "compat": header.compat,
        "compression-type": header.compression,
        "refcount-bits": header.refcount_bits,
    }
    if header.compat == "1.1":
        data["lazy-refcounts"] = header.lazy_refcounts
        data["corrupt"] = header.corrupt
        data["extended-l2"] = header.extended_l2
    return data


def _actual_size(node: Node) -> int:
    if node.fd >= 0:
        return os.fstat(node.fd).st_blocks * 512
    return sum(_actual_size(edge.node) for role, edge in node.children.items() if role == "file")


def block_device(node: Node, version: tuple[int, int], *, flat: bool = False) -> dict[str, Any]:
    """Return a node as ``BlockDeviceInfo``."""
    cache = node.options.get("cache", {})
    found: dict[str, Any] = {
        "node-name": node.name,
        "file": filename(node),
        "ro": node.read_only,
        "drv": node.driver,
        "encrypted": False,
        "detect_zeroes": node.options.get("detect-zeroes", "off"),
        "write_threshold": 0,
        "backing_file_depth": 0 if flat else _depth(node),
        "cache": {
            "writeback": True,
            "direct": cache.get("direct", False),
            "no-flush": cache.get("no-flush", False),
        },
        "image": image(node, version, flat=flat),
        **dict.fromkeys(("bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"), 0),
    }
    if version >= (10, 0):
        found["active"] = True
    backing = node.child("backing")
    if backing is not None:
        found["backing_file"] = filename(backing)
    return found


def _depth(node: Node) -> int:
    backing = node.child("backing")
    return 0 if backing is None else 1 + _depth(backing)
