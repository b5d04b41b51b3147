import inspect
import pickle

import pytest

from pytest_qemuvm import errors
from pytest_qemuvm.coherence import Finding


def instances():
    extras = {
        "argv": ("qemu", "-x"),
        "status": -9,
        "log": "the log",
        "waited_for": "a reply",
        "seconds": 2.5,
        "console": "the end",
        "result": None,
        "class_": "GenericError",
        "desc": "no such device",
        "holder": "vm1",
        "device": "disk0",
        "left": ("disk0-fmt", "disk0-file"),
        "path": "/images/web.qcow2",
        "format": "qcow2",
        "fault": "disk disk0 of VM vm1: answers no more",
        "users": ("vm1", "data"),
        "paths": ("/images/web.qcow2",),
        "findings": (Finding("orphan_disk", "a", "b", "c"),),
        "missing": ("zombie",),
        "remains": ("a: busy",),
        "suggestions": ("query-status",),
        "sessions": ("qv-1", "qv-2"),
        "job": "backup0",
        "error": "No space left on device",
        "cancelled": False,
        "stopped": True,
        "seed": 7,
        "failures": ("what failed",),
    }
    for _, cls in inspect.getmembers(errors, inspect.isclass):
        if issubclass(cls, errors.QemuVMError):
            keywords = {
                name: extras[name]
                for name, parameter in inspect.signature(cls).parameters.items()
                if parameter.kind is inspect.Parameter.KEYWORD_ONLY
            }
            yield cls("brief", "evidence", "do this", **keywords)


@pytest.mark.parametrize("error", list(instances()), ids=lambda error: type(error).__name__)
def test_every_error_says_what_the_evidence_and_the_remedy_and_survives_a_pickle(error):
    text = str(error)
    assert text.startswith("brief\n")
    assert "evidence" in text
    assert text.endswith("hint: do this")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == text
    assert vars(copy) == vars(error)


def test_types_that_are_two_things_at_once():
    assert issubclass(errors.SpecError, ValueError)
    assert issubclass(errors.VMNotFound, LookupError)
    assert issubclass(errors.QmpTimeout, errors.WaitTimeout)
    assert issubclass(errors.GuestCommandTimeout, errors.WaitTimeout)
    assert issubclass(errors.GuestBootError, errors.WaitTimeout)


def test_nearest_falls_back_to_all_that_is_known():
    assert errors.nearest("kvn", ["kvm", "tcg"]) == "did you mean 'kvm'?"
    assert errors.nearest("zzz", ["kvm", "tcg"]) == "known: kvm, tcg"
