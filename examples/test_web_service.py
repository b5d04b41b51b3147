"""A service in the guest, reached from the host through a port that QEMU chose."""

import urllib.request

import pytest

from pytest_qemuvm import NicSpec


@pytest.mark.qemuvm(nics=[NicSpec(forward=80)])
def test_a_web_server_answers(vm):
    vm.run("mkdir /srv")
    vm.write_text("/srv/index.html", "hello from the guest\n")
    vm.run("httpd -h /srv -p 80")
    vm.wait_for_port(80)
    with urllib.request.urlopen(f"http://127.0.0.1:{vm.port(80)}/", timeout=20) as answer:
        assert answer.read() == b"hello from the guest\n"


@pytest.mark.qemuvm(nics=[NicSpec()])
def test_the_guest_is_offline_unless_asked(vm):
    vm.wait_until_succeeds("ip address show eth0 | grep 10.0.2.15")
    assert not vm.run("timeout 1 wget -q -O - http://10.0.2.2/", check=False).ok
