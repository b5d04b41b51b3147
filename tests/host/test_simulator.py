"""The simulator as the host sees it: which version it is, how it is started, what of it is missing."""

import sys

import pytest

from pytest_qemuvm.errors import NeedsSimulator, NotSupportedInDryRun, SimulatorUnusable
from pytest_qemuvm.host import simulator
from pytest_qemuvm.host.binary import QemuBinary
from pytest_qemuvm.host.capabilities import Capabilities, discover
from pytest_qemuvm.host.device_help import drivers_of
from pytest_qemuvm.host.executables import Executables, executables_for
from pytest_qemuvm.spec.settings import resolve


def binary(*version):
    return QemuBinary("/opt/qemu", version, "made up", "0123456789abcdef")


def simulated(version, cache):
    return executables_for(Capabilities("dry-run", "", None, None, version), cache)


@pytest.mark.parametrize(
    ("version", "nearest"),
    [
        ((7, 2, 22), "7.2"),
        ((8, 0, 0), "7.2"),
        ((8, 2, 9), "7.2"),
        ((9, 0, 0), "10.0"),
        ((9, 2, 1), "10.0"),
        ((10, 0, 3), "10.0"),
        ((12, 1, 0), "10.0"),
        ((5, 0, 0), "7.2"),
    ],
)
def test_the_recorded_version_nearest_by_releases_is_simulated(version, nearest):
    assert simulator.nearest_version(binary(*version), ("7.2", "10.0")) == nearest


def test_without_a_qemu_it_is_the_oldest_supported():
    assert simulator.nearest_version(None, ("7.2", "10.0")) == "7.2"
    assert simulator.nearest_version(None, ("10.0",)) == "10.0"


def test_both_supported_ends_are_recorded():
    assert simulator.recorded_versions() == ("7.2", "10.0")


def test_other_things_in_the_directory_of_records_are_no_versions(tmp_path):
    for name in ("10.0", "9.1", "__pycache__", "x.y"):
        (tmp_path / name).mkdir()
    (tmp_path / "8.0").write_text("a file")
    assert simulator.recorded_versions(tmp_path) == ("9.1", "10.0")


def test_records_that_are_missing_are_a_typed_error(tmp_path):
    for records in (tmp_path, tmp_path / "missing"):
        with pytest.raises(SimulatorUnusable) as caught:
            simulator.recorded_versions(records)
        assert "again" in caught.value.hint


def test_what_is_learnt_of_it_holds_until_it_is_recorded_anew(tmp_path):
    (tmp_path / "7.2").mkdir()
    (tmp_path / "7.2" / "recorded.bin").write_bytes(b"one")
    first = simulator.fingerprint("7.2", tmp_path)
    assert first == simulator.fingerprint("7.2", tmp_path)
    (tmp_path / "7.2" / "recorded.bin").write_bytes(b"two, longer")
    assert simulator.fingerprint("7.2", tmp_path) != first


def test_it_is_launched_with_qemus_own_arguments_and_qemu_as_it_is(tmp_path):
    argv = ("/usr/bin/qemu-system-x86_64", "-name", "x")
    assert Executables().command(argv) == argv
    command = simulated("10.0", tmp_path).command(argv)
    assert command[0] == sys.executable
    assert command[-2:] == argv[1:]
    assert argv[0] not in command


def test_the_version_and_the_faults_go_by_the_environment(tmp_path):
    executables = simulated("10.0", tmp_path)
    assert executables.environment('{"split": 1}') == {
        simulator.VERSION_VARIABLE: "10.0",
        simulator.FAULTS_VARIABLE: '{"split": 1}',
    }
    assert Executables().environment("") == {}


def test_each_mode_refuses_what_only_the_other_can(tmp_path):
    executables = simulated("7.2", tmp_path)
    executables.require_simulator()
    with pytest.raises(NotSupportedInDryRun):
        executables.require_guest("console")
    Executables().require_guest("console")
    with pytest.raises(NeedsSimulator):
        Executables().require_simulator()


def test_a_dry_run_says_what_it_simulates_and_why(tmp_path):
    settings = resolve({"dry-run": True, "binary": str(tmp_path / "missing")}, {}, {})
    found = discover(settings, tmp_path)
    assert (found.mode, found.binary, found.accelerator, found.simulates) == ("dry-run", None, None, "7.2")
    assert "missing" in found.simulates_why
    assert Capabilities.from_dict(found.as_dict()) == found


@pytest.mark.parametrize("version", ["7.2", "10.0"])
def test_it_can_be_asked_what_devices_it_has(tmp_path, version):
    listing = simulated(version, tmp_path).listing
    drivers = drivers_of(listing)
    assert {"virtio-blk-pci", "edu"} <= drivers.keys()
    assert ("virtio-sound-pci" in drivers) == (version == "10.0")
    assert simulated(version, tmp_path).listing == listing


def test_where_no_script_can_be_written_devices_are_not_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    assert simulated("7.2", tmp_path / "file").listing is None
