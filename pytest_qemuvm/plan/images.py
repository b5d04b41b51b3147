"""Which image file a disk is on, and what has to be made for it to exist."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_qemuvm.devices.place import Image
from pytest_qemuvm.plan.model import CachePlan, ImagePlan

if TYPE_CHECKING:
    from pytest_qemuvm.spec.devices import DiskSpec


def image_for(spec: DiskSpec, stem: str) -> tuple[Image, tuple[ImagePlan, ...]]:
    """Return the image that QEMU opens for a disk, and what has to be made for it to exist."""
    if spec.path is None:
        image = Image(f"{stem}.{spec.format}", spec.format)
        return image, (ImagePlan(image.path, image.format, spec.bytes),)
    if spec.read_only or spec.handle is not None:
        return Image(str(spec.path), spec.format), ()
    overlay = Image(f"{stem}.overlay.qcow2", "qcow2")
    return overlay, (ImagePlan(overlay.path, "qcow2", None, str(spec.path), spec.format),)


def cache_for(name: str, kept: Image, stem: str) -> tuple[Image, CachePlan]:
    """Return what QEMU opens for a disk with a volatile cache, and the plan of that cache."""
    plan = CachePlan(name, kept, f"{stem}.cache.qcow2", f"{stem}.writes")
    return Image(plan.scratch, "qcow2", plan.log), plan
