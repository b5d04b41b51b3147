"""What the prompt of ``qemuvm qmp`` offers, by the schema of a real QEMU."""

import pytest

from pytest_qemuvm.cli.completion import Completion


@pytest.fixture(scope="module")
def completion(module_vm_factory):
    return Completion(module_vm_factory(template="bare").qmp.schema.types)


@pytest.mark.parametrize(
    ("before", "text", "expected"),
    [
        ("", "query-stat", ["query-stats ", "query-stats-schemas ", "query-status "]),
        ("", "no-such", []),
        ("", "STOP", []),  # an event
        ("qom-get ", "", ["path=", "property="]),
        ("blockdev-add ", "read-only=", ["read-only=false ", "read-only=true "]),
        ("blockdev-add ", "driver=null", ["driver=null-aio ", "driver=null-co "]),
        ("blockdev-add driver=raw ", "file.driver=null-c", ["file.driver=null-co "]),
        ("blockdev-add driver=raw ", "cache.", ["cache.direct=", "cache.no-flush="]),
        ("chardev-add ", "", ["backend.", "id="]),
        ("system_reset ", "", []),
        ("no-such ", "a", []),
        ("STOP ", "", []),
        ("qom-get ", "path=", []),
        ("qom-get ", "path.more.", []),
    ],
)
def test_what_may_come_next(completion, before, text, expected):
    assert completion.complete(before, text) == expected
