"""Arguments against the schema of the QEMU that is there; and that the policy knows all that it offers."""

import pytest

from pytest_qemuvm.errors import InvalidArguments, UnknownCommand
from pytest_qemuvm.qmp.policy import table
from pytest_qemuvm.qmp.reach import reaches
from pytest_qemuvm.qmp.schema import Schema
from pytest_qemuvm.qmp.schemas import SchemaSource

pytestmark = pytest.mark.qemuvm(template="bare")


@pytest.fixture(scope="module")
def entries(module_vm_factory):
    return module_vm_factory(template="bare").qmp.execute("query-qmp-schema")


@pytest.fixture(scope="module")
def schema(entries):
    return Schema(entries)


QCOW2 = {"driver": "qcow2", "node-name": "a"}
KEY = {"type": "qcode", "data": "a"}
FILE = {"driver": "file", "filename": "x"}


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("query-status", {}),
        ("device_del", {"id": "x"}),
        ("device_add", {"driver": "usb-kbd", "anything": [1]}),
        ("blockdev-add", {**QCOW2, "file": "node"}),
        ("blockdev-add", {**QCOW2, "file": FILE, "backing": None}),
        (
            "blockdev-add",
            {"driver": "quorum", "node-name": "q", "vote-threshold": 1, "children": [FILE, "n"]},
        ),
        ("send-key", {"keys": [{"type": "qcode", "data": "a"}, {"type": "number", "data": 5}]}),
        ("object-add", {"qom-type": "iothread", "id": "i", "poll-max-ns": 5}),
        ("chardev-add", {"id": "c", "backend": {"type": "null", "data": {}}}),
        ("netdev_add", {"type": "user", "id": "n", "hostfwd": [{"str": "tcp::0-:22"}]}),
        ("qom-set", {"path": "/x", "property": "y", "value": {"any": ["thing", None, 1.5]}}),
        ("transaction", {"actions": [{"type": "abort", "data": {}}]}),
    ],
)
def test_what_qemu_takes(schema, command, arguments):
    assert schema.check(command, arguments) == []


@pytest.mark.parametrize(
    ("command", "arguments", "path", "near"),
    [
        ("query-status", {"a": 1}, "arguments.a", None),
        ("device_del", {}, "arguments.id", None),
        ("device_del", {"id": 5}, "arguments.id", None),
        ("device_del", {"idd": "x"}, "arguments.idd", "id"),
        ("balloon", {"value": "5"}, "arguments.value", None),
        ("balloon", {"value": True}, "arguments.value", None),
        ("balloon", {"value": 1.5}, "arguments.value", None),
        ("device_add", {"id": "x"}, "arguments.driver", None),
        ("device_add", {"driver": 5}, "arguments.driver", None),
        ("blockdev-add", {**QCOW2, "file": {**FILE, "driver": "fille"}}, "arguments.file.driver", "file"),
        ("blockdev-add", {**QCOW2, "file": {"driver": "file"}}, "arguments.file.filename", None),
        ("blockdev-add", {**QCOW2, "file": {**FILE, "filenam": 1}}, "arguments.file.filenam", "filename"),
        ("blockdev-add", {**QCOW2, "file": 5}, "arguments.file", None),
        (
            "blockdev-add",
            {**QCOW2, "file": FILE, "lazy-refcount": 1},
            "arguments.lazy-refcount",
            "lazy-refcounts",
        ),
        ("blockdev-add", {"node-name": "a"}, "arguments.driver", None),
        ("blockdev-add", {"driver": "null-co", "node-name": "a", "size": "1"}, "arguments.size", None),
        ("send-key", {"keys": [KEY, {**KEY, "data": "aa"}]}, "arguments.keys[1].data", None),
        ("send-key", {"keys": "a"}, "arguments.keys", None),
        ("object-add", {"qom-type": "iothred", "id": "x"}, "arguments.qom-type", "iothread"),
        ("netdev_add", {"type": "user", "id": "n", "hostfw": []}, "arguments.hostfw", "hostfwd"),
        ("transaction", {"actions": [{"type": "abort"}]}, "arguments.actions[0].data", None),
        ("chardev-add", {"id": "c", "backend": "null"}, "arguments.backend", None),
    ],
)
def test_what_qemu_does_not_take_is_named_by_its_path(schema, command, arguments, path, near):
    with pytest.raises(InvalidArguments) as caught:
        schema.check(command, arguments)
    assert caught.value.path == path
    if near is not None:
        assert f"{near!r}" in caught.value.hint


@pytest.mark.parametrize(
    ("wrong", "right"), [("query-statu", "query-status"), ("device-add", "device_add"), ("quitt", "quit")]
)
def test_a_command_that_qemu_does_not_have(schema, wrong, right):
    with pytest.raises(UnknownCommand) as caught:
        schema.check(wrong, {})
    assert right in caught.value.suggestions


def test_what_is_deprecated_or_unstable_is_told(schema):
    backup = schema.check("drive-backup", {"device": "d", "target": "x", "sync": "full"})
    assert ("deprecated", "drive-backup") in backup
    assert schema.check("x-query-usb", {}) == [("unstable", "x-query-usb")]
    assert ("deprecated", "arguments.device") in schema.check("blockdev-open-tray", {"device": "d"})


@pytest.mark.parametrize("answer", [None, 5, [], [{}], [{"name": "x"}], "text", {"a": 1}, [5]])
def test_an_answer_that_is_no_schema_is_as_good_as_none(tmp_path, answer):
    source = SchemaSource(tmp_path, "0123")
    source.learn(answer)
    assert (source.settled, source.schema) == (True, None)
    assert not SchemaSource(tmp_path, "0123").load()


def test_it_is_kept_for_the_binary_it_came_from(tmp_path, entries):
    source = SchemaSource(tmp_path, "0123")
    assert not source.load()
    source.learn(entries)
    again, other = SchemaSource(tmp_path, "0123"), SchemaSource(tmp_path, "4567")
    assert again.load()
    assert again.schema.commands == source.schema.commands
    assert not other.load()


def test_without_a_fingerprint_nothing_is_kept(tmp_path, entries):
    SchemaSource(tmp_path).learn(entries)
    assert [*tmp_path.iterdir()] == []
    assert not SchemaSource(tmp_path).load()


def test_the_policy_classes_every_command_of_this_qemu(schema):
    unclassed = sorted(schema.commands - table().keys())
    assert unclassed == [], (
        "each needs a row in qmp/classes.json, and a rule in qmp/reach.py if it reaches out"
    )


SUSPECT = {
    *("filename", "path", "dir", "uri", "script", "downscript", "helper", "out", "in", "logfile", "mem-path"),
    *(
        "target",
        "snapshot-file",
        "backing-file",
        "smb",
        "tftp",
        "conf",
        "config",
        "evdev",
        "mountpoint",
        "sock",
    ),
    *("vhostdev", "session-file", "dh-cert-file", "sev-device", "devname", "map-path", "protocol", "file"),
    *("filename", "args", "exec", "command", "rootdir", "hidraw", "socket", "cpr-exec-command", "rom-path"),
}
REVIEWED = {
    # Places in QEMU's own tree of objects.
    ("qom-get", "path"),
    ("qom-set", "path"),
    ("qom-list", "path"),
    ("qom-list-get", "path"),
    ("x-query-virtio-status", "path"),
    ("x-query-virtio-queue-status", "path"),
    ("x-query-virtio-vhost-queue-status", "path"),
    ("x-query-virtio-queue-element", "path"),
    ("cxl-inject-poison", "path"),
    ("cxl-inject-general-media-event", "path"),
    ("cxl-inject-dram-event", "path"),
    ("cxl-inject-memory-module-event", "path"),
    ("cxl-inject-uncorrectable-errors", "path"),
    ("cxl-inject-correctable-error", "path"),
    ("cxl-add-dynamic-capacity", "path"),
    ("cxl-release-dynamic-capacity", "path"),
    # Names of block nodes.
    ("blockdev-backup", "target"),
    ("blockdev-mirror", "target"),
    ("block-dirty-bitmap-merge", "target"),
    # Words.
    ("add_client", "protocol"),
    ("client_migrate_info", "protocol"),
    ("set_password", "protocol"),
    ("expire_password", "protocol"),
}
NOT_FILES = {
    # On another machine, or the name of a node.
    *("driver=ssh", "driver=nfs", "driver=gluster", "driver=luks", "driver=blklogwrites"),
}


def built(way, value):
    """Return arguments with the value at the end of a way."""
    if not way:
        return value
    head, rest = way[0], way[1:]
    if head == "[]":
        return [built(rest, value)]
    inner = built(rest, value)
    if "=" in head:
        tag, _, case = head.partition("=")
        return {tag: case, **(inner if isinstance(inner, dict) else {})}
    return {head: inner}


def test_the_policy_knows_every_argument_that_may_be_a_path(schema):
    unknown = set()
    for command in schema.commands - {"transaction"}:
        for way in schema.strings(command):
            names = [part for part in way if part != "[]" and "=" not in part]
            if not names or names[-1] not in SUSPECT or (command, names[-1]) in REVIEWED:
                continue
            if NOT_FILES.intersection(way) and names[-1] in ("path", "file"):
                continue
            # A way that ends in a node's name (file=, target= of a block driver) has a dict beside it.
            if command.startswith(("blockdev-", "x-blockdev")) and names[-1] in ("file", "target"):
                continue
            arguments = built(way, "/foreign/x")
            if not any(reaches(command, arguments)):
                unknown.add(f"{command} {'.'.join(way)}")
    assert sorted(unknown) == []
