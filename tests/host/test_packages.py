"""Packages are fetched and unpacked without root; whatever goes wrong, no half tree is seen."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_qemuvm.host import packages
from pytest_qemuvm.host.apt import Apt
from pytest_qemuvm.host.packages import NoNetwork, PackageError, detect

REPOSITORY = Path(packages.__file__).parents[2]

needs_apt = pytest.mark.skipif(
    not (shutil.which("apt-get") and shutil.which("dpkg-deb")), reason="this host has no apt"
)


@pytest.fixture
def said():
    return []


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def deb(directory: Path, name: str, version: str, files: dict[str, str]) -> Path:
    """Make a real package."""
    root = directory / f"root-{name}"
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    (root / "DEBIAN").mkdir()
    (root / "DEBIAN" / "control").write_text(
        f"Package: {name}\nVersion: {version}\nArchitecture: amd64\n"
        "Maintainer: nobody <no@body>\nDescription: x\n"
    )
    file = directory / f"{name}_{version}_amd64.deb"
    subprocess.run(["dpkg-deb", "--build", str(root), str(file)], check=True, stdout=subprocess.DEVNULL)
    return file


class LocalApt(Apt):
    """apt with packages from a directory instead of a mirror."""

    files: dict[str, Path]

    def fetch(self, wanted, work):
        return [Path(shutil.copy(self.files[name], work)) for name in wanted]

    def fetch_kernel(self, work):
        return self.fetch(list(self.files), work)


@needs_apt
class TestUnpack:
    @pytest.fixture
    def local(self, tmp_path, said):
        manager = LocalApt(said.append)
        source = tmp_path / "mirror"
        source.mkdir()
        manager.files = {
            "image": deb(source, "image", "6.8-1", {"boot/vmlinuz-6.8": "kernel"}),
            "modules": deb(source, "modules", "6.8-1", {"lib/modules/6.8/modules.order": "x"}),
        }
        return manager

    def test_a_kernel_in_several_packages_becomes_one_tree(self, local, tmp_path):
        tree = local.unpack_kernel(tmp_path / "into")
        assert tree == tmp_path / "into" / "image_6.8-1"
        assert (tree / "boot/vmlinuz-6.8").read_text() == "kernel"
        assert (tree / "lib/modules/6.8/modules.order").exists()

    def test_nothing_else_is_left(self, local, tmp_path):
        local.unpack(["image"], tmp_path / "into")
        assert names(tmp_path / "into") == [".lock", "image_6.8-1"]

    def test_a_second_time_the_tree_is_taken_as_it_is(self, local, tmp_path):
        tree = local.unpack(["image"], tmp_path / "into")
        (tree / "mark").touch()
        assert local.unpack(["image"], tmp_path / "into") == tree
        assert (tree / "mark").exists()

    def test_every_command_is_told_before_it_runs(self, local, tmp_path, said):
        local.unpack(["image"], tmp_path / "into")
        assert any(line.startswith("$ dpkg-deb -x ") for line in said)

    def test_a_damaged_package_leaves_nothing(self, local, tmp_path):
        file = local.files["image"]
        file.write_bytes(file.read_bytes()[:300])
        with pytest.raises(PackageError) as caught:
            local.unpack(["image"], tmp_path / "into")
        assert "dpkg-deb -x" in caught.value.details
        assert names(tmp_path / "into") == [".lock"]

    def test_what_a_killed_run_left_is_removed(self, local, tmp_path):
        half = tmp_path / "into" / ".unpacking-half"
        half.mkdir(parents=True)
        (half / "file").touch()
        local.unpack(["image"], tmp_path / "into")
        assert not half.exists()


@needs_apt
class TestWithoutNetwork:
    @pytest.fixture
    def dead_mirror(self, tmp_path, monkeypatch):
        """An apt whose only source is a port where nobody listens."""
        sources = tmp_path / "sources.list"
        sources.write_text("deb [trusted=yes] http://127.0.0.1:9/debian stable main\n")
        config = tmp_path / "apt.conf"
        config.write_text(
            f'Dir::Etc::sourcelist "{sources}";\nDir::Etc::sourceparts "/dev/null";\n'
            'Acquire::http::Proxy "DIRECT";\nAcquire::Retries "0";\n'
        )
        monkeypatch.setenv("APT_CONFIG", str(config))
        monkeypatch.setattr("pytest_qemuvm.host.apt._SYSTEM_LISTS", tmp_path / "no-lists")

    @pytest.mark.usefixtures("dead_mirror")
    def test_the_error_says_so(self, tmp_path, said):
        with pytest.raises(NoNetwork) as caught:
            Apt(said.append).unpack(["busybox-static"], tmp_path / "into")
        assert "update" in caught.value.details
        assert names(tmp_path / "into") == [".lock"]


UNPRIVILEGED = """
import os, sys
sys.path[:0] = {path!r}
from pathlib import Path
from pytest_qemuvm.host import apt, packages
apt._SYSTEM_LISTS = Path("/nonexistent")
import filelock, pytest_qemuvm.host.deadline, pytest_qemuvm.host.locks
if os.geteuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
print(apt.Apt(lambda line: None).unpack(["busybox-static"], Path({into!r})))
"""


@needs_apt
def test_anybody_can_fetch_busybox_from_the_distribution(tmp_path):
    """From nothing, by a user without privileges: some 10 MB of lists, 1 MB of package."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="qemuvm-", dir="/tmp") as place:
        Path(place).chmod(0o777)  # pytest's own directories are closed to others
        code = UNPRIVILEGED.format(path=[str(REPOSITORY), *sys.path], into=f"{place}/packages")
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, cwd="/", check=False
        )
        if "NoNetwork" in done.stderr:
            pytest.skip("the distribution's mirror cannot be reached")
        assert done.returncode == 0, done.stderr
        tree = Path(done.stdout.strip())
        assert tree.name.startswith("busybox-static_")
        assert (tree / "bin/busybox").stat().st_uid == (65534 if os.geteuid() == 0 else os.getuid())
        applets = subprocess.run([tree / "bin/busybox", "--list"], capture_output=True, text=True, check=True)
        assert "modprobe" in applets.stdout.split()


class TestInstall:
    @pytest.fixture
    def commands(self, tmp_path, monkeypatch):
        """Put scripts named like the real programs first on PATH; each notes how it was called."""
        log = tmp_path / "log"
        log.touch()

        def add(name: str, body: str = "") -> None:
            path = tmp_path / "bin" / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(f'#!/bin/sh\necho "{name} $@" >> {log}\n{body}\n')
            path.chmod(0o755)

        monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
        add("apt-get")
        add("sudo", 'exec "$@"')
        return add, lambda: log.read_text().splitlines()

    def test_as_root(self, commands):
        Apt(lambda _: None).install(["qemu-utils"])
        assert commands[1]() == [
            "apt-get update",
            "apt-get install --yes --no-install-recommends qemu-utils",
        ]

    def test_with_sudo(self, commands):
        Apt(lambda _: None).install(["qemu-utils"], sudo=True)
        assert commands[1]()[0] == "sudo apt-get update"

    def test_a_failure_carries_the_command_and_what_it_wrote(self, commands):
        commands[0]("apt-get", "echo 'E: Unable to locate package qemu-utils' >&2; exit 100")
        with pytest.raises(PackageError) as caught:
            Apt(lambda _: None).install(["qemu-utils"])
        assert "apt-get update" in caught.value.details
        assert "Unable to locate" in caught.value.details


def test_this_host_has_a_package_manager_or_none():
    manager = detect()
    assert manager is None or manager.name in {"apt", "dnf"}
