"""One machine for a whole module, where a fresh one for each test would buy nothing."""

import pytest


@pytest.fixture(scope="module")
def server(module_vm_factory):
    vm = module_vm_factory("server", memory="128M")
    vm.run("mkdir /data && echo 1 >/data/version")
    return vm


def test_it_is_set_up_once(server):
    assert server.read_text("/data/version") == "1\n"
    server.write_text("/data/version", "2\n")


def test_what_one_test_did_the_next_one_sees(server):
    assert server.read_text("/data/version") == "2\n"


def test_beside_it_there_is_room_for_others(server, vm_factory, qemuvm):
    client = vm_factory("client", memory="128M")
    assert {vm.name for vm in qemuvm.vms(state="running")} >= {"server", "client"}
    names = [machine.run("hostname").stdout.strip() for machine in (server, client)]
    assert names == ["server", "client"]
