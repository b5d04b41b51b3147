import hashlib
import os
import subprocess

import pytest
from bootsector import boot_sector

from pytest_qemuvm.host.images import make_image
from pytest_qemuvm.plan import ImagePlan


@pytest.fixture
def vm_spec():
    return {"template": "bare"}


@pytest.fixture
def digest():
    return lambda path: hashlib.sha256(path.read_bytes()).digest()


@pytest.fixture
def qemu_img():
    def run(*args):
        subprocess.run(["qemu-img", *map(str, args)], check=True, capture_output=True)

    return run


@pytest.fixture
def raw(tmp_path):
    """A raw image that boots."""
    path = tmp_path / "boots, really.img"
    path.write_bytes(boot_sector() + bytes(1024**2))
    return path


@pytest.fixture(params=["raw", "overlay", "qcow2"])
def bootable(request, raw, tmp_path, qemu_img):
    """An image that boots, and its format: raw, an overlay of ours on that, and one that qemu-img made."""
    if request.param == "raw":
        return raw, "raw"
    path = tmp_path / "boots.qcow2"
    if request.param == "overlay":
        make_image(ImagePlan(str(path), "qcow2", None, str(raw), "raw"), path)
    else:
        qemu_img("convert", "-q", "-f", "raw", "-O", "qcow2", raw, path)
    return path, "qcow2"


@pytest.fixture
def scribble():
    """Change a file behind everybody's back, keeping its length and the times that a user can set."""

    def do(path):
        was = path.stat()
        with path.open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(b"!")
        os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))

    return do
