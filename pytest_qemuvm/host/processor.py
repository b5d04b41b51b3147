"""What a guest that runs on the host's own processor has seen of it."""

from __future__ import annotations

import hashlib

_TELLING = ("vendor_id", "cpu family", "model", "stepping", "microcode", "flags")


def processor_identity() -> str:
    """Return a digest of the processor's kind, its microcode and what it can do."""
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:  # noqa: PTH123
        first = file.read().partition("\n\n")[0]
    lines = [line for line in first.splitlines() if line.partition("\t")[0].strip() in _TELLING]
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:16]
