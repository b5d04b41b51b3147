"""The lines in pytest's header."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_qemuvm.plugin.state import SessionState


def header(state: SessionState) -> list[str]:
    """Return the mode with its reason, the binary, and the accelerator with its proof."""
    found = state.capabilities
    lines = [f"qemuvm: {found.mode} ({found.why})"]
    if found.accelerator is not None and found.binary is not None:
        lines.append(f"qemuvm: {found.binary.path}, {found.binary.version_text}")
        lines.append(
            f"qemuvm: accelerator {found.accelerator.name}, cpu {found.accelerator.cpu_model} "
            f"({found.accelerator.proof})"
        )
    if found.simulates is not None:
        lines.append(f"qemuvm: simulates QEMU {found.simulates} ({found.simulates_why})")
    if state.settings.image is not None:
        lines.append(f"qemuvm: image {state.settings.image} ({state.settings.image_format})")
    if not state.settings.network_dry_run:
        lines.append("qemuvm: networks real")
    return lines
