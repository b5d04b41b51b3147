"""The second monitor across the processes of one run."""

SUITE = """
import pytest
from pytest_qemuvm.errors import VMNotFound
from pytest_qemuvm.host.deadline import Deadline
from pytest_qemuvm.qmp import connect

OTHER = {"gw0": "gw1", "gw1": "gw0"}

@pytest.mark.parametrize("each", ["one", "two"])
def test_reach(worker_id, session_vm_factory, tmp_path_factory, each):
    mine = session_vm_factory(worker_id, template="bare")
    deadline = Deadline.after(60)
    client = None
    while client is None:
        try:
            client = connect(OTHER[worker_id])
        except VMNotFound:
            assert not deadline.expired
    with client:
        assert client.execute("query-name")["name"].startswith(OTHER[worker_id])
        client.execute("stop")
        client.execute("cont")
    mine.qmp.wait_event("STOP", timeout=60)
    mine.qmp.wait_event("RESUME", timeout=60)
    # This one's machine is needed until the other has said goodbye.
    here = tmp_path_factory.getbasetemp().parent
    (here / worker_id).touch()
    while not (here / OTHER[worker_id]).exists():
        assert not deadline.expired
"""


def test_workers_of_xdist_reach_each_others_machines(pytester, run):
    pytester.makepyfile(SUITE)
    run("--qemu-real", "-n2").assert_outcomes(passed=2)
