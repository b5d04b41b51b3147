import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from pytest_qemuvm.errors import QemuVMError
from pytest_qemuvm.host.executables import Executables
from pytest_qemuvm.host.lease import Origin
from pytest_qemuvm.host.provision import Provisioner
from pytest_qemuvm.plan import ImagePlan


@pytest.fixture
def provisioner():
    made = Provisioner("qv-test-provision", Path("/dev/null/qv-test-provision"), Origin("/"))
    yield made
    made.close()


def test_a_session_directory_that_cannot_be_made_is_a_typed_error(provisioner, vm_factory):
    plan = vm_factory(start=False, template="bare").plan
    with ExitStack() as stack, pytest.raises(QemuVMError) as caught:
        provisioner.prepare(plan, Path("/dev/null/qv-test-provision/vm"), stack)
    assert isinstance(caught.value.__cause__, OSError)
    with pytest.raises(QemuVMError):
        provisioner.make_disk(ImagePlan("/dev/null/qv-test-provision/disk.raw", "raw", 512))


def test_a_run_directory_that_is_gone_is_a_typed_error_of_the_launch(provisioner, vm_factory, tmp_path):
    plan = vm_factory(start=False, template="bare").plan
    with ExitStack() as stack, pytest.raises(QemuVMError):
        provisioner.launch(plan, tmp_path / "gone", stack)


def test_what_ends_qemu_with_us_is_said_in_the_main_thread_alone(tmp_path, vm_factory):
    """The kernel looks at the death of the thread that started it, which for other threads is too soon."""
    plan = vm_factory(start=False, template="bare").plan
    harmless = ("-name", "said-on-parting")  # stands for what only a new QEMU understands
    provisioner = Provisioner(
        "qv-test-parting", tmp_path / "root" / "tag", Origin("/"), Executables(last_words=harmless)
    )
    argvs = []

    def launch():
        with ExitStack() as stack:
            argvs.append(provisioner.launch(plan, tmp_path, stack).process.argv)

    try:
        launch()
        thread = threading.Thread(target=launch)
        thread.start()
        thread.join()
    finally:
        provisioner.close()
    assert argvs[0][-2:] == harmless
    assert "said-on-parting" not in argvs[1]
