"""An accelerator is proven with the real QEMU; what a QEMU could do wrong is played by scripts."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from pytest_qemuvm.errors import AcceleratorUnavailable, QemuNotFound
from pytest_qemuvm.host import accel
from pytest_qemuvm.host.accel import Trial, prove
from pytest_qemuvm.host.binary import QemuBinary, find_qemu, identify
from pytest_qemuvm.host.firmware import PROVEN_STATUS, SIZE, image

NO_KVM = "/nonexistent/kvm"


@pytest.fixture(scope="module")
def qemu(tmp_path_factory):
    try:
        return identify(find_qemu(None), tmp_path_factory.mktemp("cache"))
    except QemuNotFound as missing:
        pytest.skip(str(missing))


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def fake(tmp_path):
    """Return a QEMU that is a script; ``$cpu`` is the model, and it notes each start in ``starts``."""

    def make(body: str) -> QemuBinary:
        path = tmp_path / "qemu"
        path.write_text(
            '#!/bin/sh\nwhile [ "$1" != -cpu ]; do shift; done\ncpu=$2\n'
            f'echo "$cpu" >> {tmp_path}/starts; echo $$ >> {tmp_path}/pids\n{body}\n'
        )
        path.chmod(0o755)
        return QemuBinary(str(path), (9, 0, 0), "QEMU emulator version 9.0.0", "0123456789abcdef")

    return make


def open_descriptors() -> set[str]:
    return {entry.name for entry in Path("/proc/self/fd").iterdir()}


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


class TestTcg:
    def test_it_is_proven_by_the_real_qemu(self, qemu, cache):
        found = prove(qemu, "tcg", cache)
        assert (found.name, found.cpu_model) == ("tcg", "max")
        assert "tcg proven in" in found.proof

    def test_an_old_cpu_model_proves_it_too(self, qemu):
        assert accel._climb(qemu, "tcg", ["qemu64"]).proven

    def test_a_32_bit_processor_does_not(self, qemu):
        """The firmware's status needs long mode: this is what makes it a proof."""
        trial = accel._climb(qemu, "tcg", ["qemu32"])
        assert not trial.proven

    def test_a_hit_takes_under_a_millisecond_and_starts_nothing(self, fake, cache):
        binary = fake(f"exit {PROVEN_STATUS}")
        cold = prove(binary, "tcg", cache)
        times = []
        for _ in range(5):
            start = time.perf_counter()
            assert prove(binary, "tcg", cache) == cold
            times.append(time.perf_counter() - start)
        assert min(times) < 0.001
        assert len(lines(Path(binary.path).with_name("starts"))) == 1

    def test_fresh_measures_again(self, fake, cache):
        binary = fake(f"exit {PROVEN_STATUS}")
        prove(binary, "tcg", cache)
        prove(binary, "tcg", cache, fresh=True)
        assert len(lines(Path(binary.path).with_name("starts"))) == 2

    def test_its_failure_is_never_kept(self, fake, cache):
        with pytest.raises(AcceleratorUnavailable):
            prove(fake("exit 1"), "tcg", cache)
        assert prove(fake(f"exit {PROVEN_STATUS}"), "tcg", cache).name == "tcg"

    def test_a_damaged_answer_is_made_anew(self, fake, cache):
        binary = fake(f"exit {PROVEN_STATUS}")
        prove(binary, "tcg", cache)
        (file,) = (cache / "probes").iterdir()
        file.write_text(file.read_text().replace('"seconds": ', '"seconds": "long", "x": '))
        assert prove(binary, "tcg", cache).name == "tcg"
        assert len(lines(Path(binary.path).with_name("starts"))) == 2

    def test_a_cache_that_cannot_be_written_is_not_fatal(self, qemu, cache):
        cache.write_text("a file")
        assert prove(qemu, "tcg", cache).name == "tcg"


class TestLadder:
    def test_the_first_that_works_is_taken(self, fake):
        binary = fake(
            f'[ "$cpu" = host,-arch-capabilities ] && exit {PROVEN_STATUS}\n'
            "echo 'error: failed to set MSR 0x10a to 0x0' >&2; kill -ABRT $$"
        )
        trial = accel._climb(binary, "kvm", accel.KVM_LADDER)
        assert trial.proven
        assert trial.cpu_model == "host,-arch-capabilities"
        assert lines(Path(binary.path).with_name("starts")) == ["host", "host,-arch-capabilities"]

    def test_where_none_works_every_reason_is_told(self, fake):
        trial = accel._climb(fake('echo "no $cpu here" >&2; exit 1'), "kvm", accel.KVM_LADDER)
        assert not trial.proven
        assert all(f"no {model} here" in trial.reason for model in accel.KVM_LADDER)

    def test_a_reset_is_told_from_an_exit(self, fake):
        assert "reset" in accel._climb(fake("exit 0"), "tcg", ["max"]).reason

    def test_after_two_that_hang_no_more_are_tried_and_none_is_left(self, fake, monkeypatch):
        monkeypatch.setitem(accel._TRIAL_SECONDS, "kvm", 0.3)
        binary = fake("exec sleep 1000")
        start = time.monotonic()
        trial = accel._climb(binary, "kvm", accel.KVM_LADDER)
        assert time.monotonic() - start < 5
        assert trial.reason.count("still running") == 2
        for pid in lines(Path(binary.path).with_name("pids")):
            assert not Path(f"/proc/{pid}").exists()

    def test_a_binary_that_vanished(self, tmp_path):
        gone = QemuBinary(str(tmp_path / "gone"), (9, 0, 0), "", "0")
        assert "No such file" in accel._climb(gone, "tcg", ["max"]).reason


class TestChoice:
    def test_without_kvm_auto_is_tcg_and_says_why(self, qemu, cache):
        found = prove(qemu, "auto", cache, device=NO_KVM)
        assert found.name == "tcg"
        assert "kvm rejected: there is no" in found.proof
        assert "tcg proven in" in found.proof

    def test_kvm_demanded_and_missing(self, qemu, cache):
        with pytest.raises(AcceleratorUnavailable) as caught:
            prove(qemu, "kvm", cache, device=NO_KVM)
        assert NO_KVM in caught.value.details
        assert caught.value.hint

    def test_nothing_works(self, fake, cache):
        with pytest.raises(AcceleratorUnavailable) as caught:
            prove(fake("echo broken >&2; exit 1"), "auto", cache, device=NO_KVM)
        assert "kvm: " in caught.value.details
        assert "tcg: " in caught.value.details

    def test_this_host_is_judged_by_measurement(self, qemu, cache):
        """Whatever /dev/kvm is worth here, the answer names what was measured, and holds when cached."""
        found = prove(qemu, "auto", cache)
        assert prove(qemu, "auto", cache) == found
        if found.name == "kvm":
            assert "ns per iteration" in found.proof
            assert prove(qemu, "kvm", cache) == found
        else:
            assert found.proof.startswith("kvm rejected: ")
            with pytest.raises(AcceleratorUnavailable):
                prove(qemu, "kvm", cache)

    def test_proven_kvm_is_taken_and_nothing_is_started(self, fake, cache):
        binary = fake("exit 1")
        trials = accel._Trials(binary, cache, NO_KVM, fresh=True)
        good = Trial(proven=True, cpu_model="host", reason=", fast", hint=None, seconds=0.05)
        accel.probe_cache.store(cache, trials._file, trials._key, {"kvm": good._asdict()})
        found = prove(binary, "auto", cache, device=NO_KVM)
        assert (found.name, found.cpu_model) == ("kvm", "host")
        assert found.proof == "kvm proven in 50 ms, fast"

    def test_a_rejection_is_kept_until_the_device_changes(self, fake, cache, tmp_path):
        device = tmp_path / "kvm"
        binary = fake(f"exit {PROVEN_STATUS}")
        first = prove(binary, "auto", cache, device=str(device))
        assert prove(binary, "auto", cache, device=str(device)) == first
        device.touch()
        second = prove(binary, "auto", cache, device=str(device))
        assert "there is no" in first.proof
        assert "cannot ask for the version" in second.proof

    def test_another_boot_asks_again(self, fake, cache, monkeypatch):
        binary = fake(f"exit {PROVEN_STATUS}")
        prove(binary, "tcg", cache)
        monkeypatch.setattr(accel, "_boot_id", lambda: "another")
        prove(binary, "tcg", cache)
        assert len(lines(Path(binary.path).with_name("starts"))) == 2

    def test_no_descriptor_is_left_open(self, fake, cache):
        before = open_descriptors()
        prove(fake(f"exit {PROVEN_STATUS}"), "tcg", cache)
        assert open_descriptors() == before


def test_the_firmware_fills_its_rom_and_starts_at_the_reset_vector():
    rom = image()
    assert len(rom) == SIZE
    assert rom[0xFFF0] == 0xE9
    assert PROVEN_STATUS == 85
