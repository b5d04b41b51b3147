"""The QEMU that the session runs, and the simulated version that is nearest to it."""

import subprocess

import pytest
from qmp_talk import HALT, SIMULATOR

from pytest_qemuvm.sim.archive import VERSIONS


@pytest.fixture(scope="session")
def real_qemu(qemuvm):
    return (str(qemuvm.capabilities.binary.path),)


@pytest.fixture(scope="session")
def real_version(qemuvm):
    return qemuvm.capabilities.binary.version


@pytest.fixture(scope="session")
def simulated_version(real_version):
    """Return the recorded version that is nearest to that of the real QEMU."""

    def distance(text):
        major, minor = map(int, text.split("."))
        return abs((major - real_version[0]) * 100 + minor - real_version[1])

    return min(VERSIONS, key=distance)


@pytest.fixture
def simulator():
    return SIMULATOR


@pytest.fixture
def ground(tmp_path):
    """Return a directory with the files that scenarios name."""
    return lay_ground(tmp_path / "ground")


@pytest.fixture
def lay():
    """Return what makes such a directory."""
    return lay_ground


def lay_ground(directory):
    directory.mkdir(exist_ok=True)
    (directory / "halt.bin").write_bytes(HALT)
    for name, options in {
        "disk.qcow2": ("-f", "qcow2", "{}/disk.qcow2", "1M"),
        "disk.raw": ("-f", "raw", "{}/disk.raw", "1M"),
        "overlay.qcow2": ("-f", "qcow2", "-b", "disk.qcow2", "-F", "qcow2", "{}/overlay.qcow2"),
        "lonely.qcow2": ("-f", "qcow2", "-u", "-b", "gone.qcow2", "-F", "qcow2", "{}/lonely.qcow2", "1M"),
    }.items():
        words = [option.format(directory) for option in options]
        subprocess.run(["qemu-img", "create", "-q", *words], check=True)
        assert (directory / name).exists()
    (directory / "medium.iso").write_bytes(bytes(4096))
    return directory
