"""What the KVM probe says, and what is made of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_qemuvm.host import accel, kvm, kvm_probe

PROBE = Path(kvm_probe.__file__)


class TestJudge:
    def test_native(self):
        answer = kvm.judge({"failed": None, "ring0_ns": 0.24, "ring3_ns": 0.22})
        assert answer.native
        assert "0.24" in answer.reason

    @pytest.mark.parametrize(
        ("rings", "which"),
        [
            ({"ring0_ns": 2500.0, "ring3_ns": 0.22}, "kernel-mode code runs at 2500 ns"),
            ({"ring0_ns": 0.2, "ring3_ns": 600.0}, "user-mode code runs at 600 ns"),
        ],
    )
    def test_emulated(self, rings, which):
        answer = kvm.judge({"failed": None, **rings})
        assert not answer.native
        assert which in answer.reason

    def test_a_failed_step_is_named_with_its_reason(self):
        answer = kvm.judge({"failed": "create VM", "why": "[Errno 16] Device or resource busy"})
        assert not answer.native
        assert "create VM" in answer.reason
        assert "busy" in answer.reason

    @pytest.mark.parametrize("report", [None, [], {}, {"failed": None}, {"failed": None, "ring0_ns": "fast"}])
    def test_nonsense_proves_nothing(self, report):
        assert not kvm.judge(report).native


class TestProbe:
    def test_it_stands_alone_and_always_reports(self, tmp_path):
        """As it is launched: isolated, without site-packages, from another directory."""
        done = subprocess.run(
            [sys.executable, "-I", "-S", str(PROBE)],
            cwd=tmp_path,
            capture_output=True,
            timeout=30,
            check=True,
        )
        report = json.loads(done.stdout)
        if report["failed"] is None:
            assert 0 < report["ring3_ns"] < 1e5
            assert 0 < report["ring0_ns"] < 1e5
        else:
            assert report["why"]

    @pytest.mark.parametrize(
        ("device", "step"), [("/nonexistent", "open"), ("/dev/null", "ask for the version")]
    )
    def test_what_is_not_kvm(self, device, step):
        with pytest.raises(kvm_probe.ProbeError) as caught:
            kvm_probe.probe(device)
        assert caught.value.step == step

    def test_an_unusable_device_is_a_reason_not_an_error(self):
        answer = kvm.probe_kvm("/dev/null")
        assert not answer.native
        assert "ask for the version" in answer.reason

    def test_a_missing_device(self):
        answer = kvm.probe_kvm("/nonexistent/kvm")
        assert not answer.native
        assert answer.hint


@pytest.fixture
def as_nobody():
    """Run Python code without privileges."""
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")

    def run(code: str) -> str:
        child = (
            f"import os, sys; sys.path[:0] = [{str(PROBE.parents[2])!r}]\n"
            "from pytest_qemuvm.host import accel, kvm\n"
            "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", child + code], capture_output=True, text=True, timeout=60, check=True
        )
        return done.stdout

    return run


class TestPermission:
    @pytest.fixture
    def device(self, tmp_path):
        """A node with the access rights of a KVM device; what is behind it is never reached."""
        node = tmp_path / "kvm"
        node.touch(mode=0o600)
        for parent in (tmp_path, *tmp_path.parents):
            if parent.stat().st_uid == os.getuid() and parent != Path("/"):
                parent.chmod(parent.stat().st_mode | 0o111)
        return node

    def test_a_group_that_may_is_the_hint(self, as_nobody, device):
        device.chmod(0o660)
        os.chown(device, 0, 1)  # group 1 exists everywhere: daemon
        answer = as_nobody(f"print(kvm.probe_kvm({str(device)!r}))")
        assert "permission denied" in answer
        assert "usermod -aG daemon" in answer

    def test_where_no_group_may_the_hint_is_an_access_list(self, as_nobody, device):
        answer = as_nobody(f"print(kvm.probe_kvm({str(device)!r}))")
        assert "permission denied" in answer
        assert "setfacl" in answer

    def test_the_key_changes_with_mode_owner_and_user(self, as_nobody, device):
        keys = [accel.access_key(str(device))]
        device.chmod(0o660)
        keys.append(accel.access_key(str(device)))
        os.chown(device, 1, 1)
        keys.append(accel.access_key(str(device)))
        device.unlink()
        keys.append(accel.access_key(str(device)))
        device.touch()
        assert as_nobody(f"print(accel.access_key({str(device)!r}))") != f"{accel.access_key(str(device))}\n"
        assert len({json.dumps(key) for key in keys}) == 4
