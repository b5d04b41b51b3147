import subprocess

import pytest


@pytest.fixture
def vm_spec():
    return {"template": "bare"}


@pytest.fixture
def qemu_img():
    def run(*args):
        done = subprocess.run(["qemu-img", *map(str, args)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


@pytest.fixture
def image(tmp_path, qemu_img):
    """A qcow2 image of the user's with something in it."""
    path = tmp_path / "user's, own.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", path, "8M")
    subprocess.run(["qemu-io", "-c", "write -P 7 1M 64k", path], check=True, capture_output=True)
    return path
