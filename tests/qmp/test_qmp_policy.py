"""The policy as a table: what is blocked, by name and by argument, and what is not in the way."""

import os

import pytest

from pytest_qemuvm.errors import CommandBlocked, SpecError
from pytest_qemuvm.qmp.policy import BLOCKED, Places, checked_permission, classify, judge, table


@pytest.fixture
def places(tmp_path):
    """The VM's directory ``own`` with a disk beside it, in a session's directory; artefacts; and the rest."""
    for name in ("session/own", "session/disks", "artifacts", "foreign"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "session/own/out").symlink_to(tmp_path / "foreign")
    (tmp_path / "foreign/in").symlink_to(tmp_path / "session/own")
    session = tmp_path / "session"
    return Places(
        session / "own",
        (session / "own", tmp_path / "artifacts"),
        (session,),
        lambda: [session / "disks/mine.qcow2"],
    )


def blocked(places, command, arguments, permitted=()):
    try:
        judge(command, arguments, places, frozenset(permitted))
    except CommandBlocked:
        return True
    return False


INSIDE = [
    *("shot.ppm", "./a/b", "{t}/session/own/x", "{t}/session/own/../own/x", "{t}/artifacts/x"),
    *("{t}/foreign/in/x", "{t}/session/disks/mine.qcow2", "/dev/fdset/3"),
]
OUTSIDE = [
    *(
        "/etc/passwd",
        "../x",
        "{t}/session/own/../../x",
        "out/x",
        "{t}/session/own/out/x",
        "{t}/session/own2/x",
    ),
    *("{t}/session/disks/other.qcow2", "{t}/session/disks", "{t}/session/own", "{t}/artifacts/../x", "."),
    *("/dev/fdset/../../etc/passwd", "/proc/self/cwd/x", "/dev/stdin", "a\0b", "{t}/foreign/x", "/dev/sda"),
]

FILE = [
    ("screendump", {"filename": "PATH"}),
    ("memsave", {"val": 0, "size": 1, "filename": "PATH"}),
    ("pmemsave", {"val": 0, "size": 1, "filename": "PATH"}),
    ("dumpdtb", {"filename": "PATH"}),
    ("xen-save-devices-state", {"filename": "PATH"}),
    ("xen-load-devices-state", {"filename": "PATH"}),
    ("dump-guest-memory", {"paging": False, "protocol": "file:PATH"}),
    ("blockdev-change-medium", {"id": "cd", "filename": "PATH"}),
    ("blockdev-change-medium", {"id": "cd", "filename": "file:PATH"}),
    ("blockdev-snapshot-sync", {"node-name": "a", "snapshot-file": "PATH"}),
    ("drive-backup", {"device": "a", "target": "PATH", "sync": "full"}),
    (
        "drive-mirror",
        {"device": "a", "target": 'json:{"driver": "file", "filename": "PATH"}', "sync": "full"},
    ),
    ("change-backing-file", {"device": "a", "image-node-name": "a", "backing-file": "PATH"}),
    ("block-stream", {"device": "a", "backing-file": "PATH"}),
    ("blockdev-add", {"driver": "file", "node-name": "a", "filename": "PATH"}),
    ("blockdev-add", {"driver": "qcow2", "node-name": "a", "file": {"driver": "file", "filename": "PATH"}}),
    (
        "blockdev-add",
        {"driver": "raw", "file": "b", "backing": {"driver": "host_device", "filename": "PATH"}},
    ),
    ("blockdev-add", {"driver": "quorum", "children": [{"driver": "file", "filename": "PATH"}]}),
    ("blockdev-add", {"driver": "vvfat", "node-name": "a", "dir": "PATH"}),
    ("blockdev-add", {"driver": "blkdebug", "image": "b", "config": "PATH"}),
    ("blockdev-reopen", {"options": [{"driver": "file", "node-name": "a", "filename": "PATH"}]}),
    ("blockdev-create", {"job-id": "j", "options": {"driver": "file", "filename": "PATH", "size": 1}}),
    ("blockdev-create", {"job-id": "j", "options": {"driver": "qcow2", "file": "f", "backing-file": "PATH"}}),
    ("chardev-add", {"id": "c", "backend": {"type": "file", "data": {"out": "PATH"}}}),
    ("chardev-add", {"id": "c", "backend": {"type": "file", "data": {"out": "x", "in": "PATH"}}}),
    ("chardev-add", {"id": "c", "backend": {"type": "pipe", "data": {"device": "PATH"}}}),
    ("chardev-add", {"id": "c", "backend": {"type": "serial", "data": {"device": "PATH"}}}),
    ("chardev-change", {"id": "c", "backend": {"type": "null", "data": {"logfile": "PATH"}}}),
    ("object-add", {"qom-type": "memory-backend-file", "id": "m", "mem-path": "PATH", "size": 1}),
    ("object-add", {"qom-type": "filter-dump", "id": "f", "netdev": "n", "file": "PATH"}),
    ("object-add", {"qom-type": "secret", "id": "s", "file": "PATH"}),
    ("object-add", {"qom-type": "tls-creds-x509", "id": "t", "dir": "PATH"}),
    ("object-add", {"qom-type": "input-linux", "id": "i", "evdev": "PATH"}),
    ("netdev_add", {"type": "user", "id": "n", "tftp": "PATH"}),
    ("netdev_add", {"type": "vhost-vdpa", "id": "n", "vhostdev": "PATH"}),
    ("block-export-add", {"type": "fuse", "id": "e", "node-name": "a", "mountpoint": "PATH"}),
    ("device_add", {"driver": "usb-mtp", "rootdir": "PATH"}),
    ("qom-set", {"path": "/objects/s", "property": "file", "value": "PATH"}),
    ("migrate", {"uri": "file:PATH"}),
    ("migrate", {"uri": "file:PATH,offset=0x1000"}),
    (
        "migrate-incoming",
        {"channels": [{"channel-type": "main", "addr": {"transport": "file", "filename": "PATH"}}]},
    ),
    ("new-command", {"deep": [{"where": "PATH"}]}),
]
SOCKET = [
    ("migrate", {"uri": "unix:PATH"}),
    ("migrate-incoming", {"uri": "unix:PATH"}),
    ("migrate-recover", {"uri": "unix:PATH"}),
    ("migrate", {"channels": [{"addr": {"transport": "socket", "type": "unix", "path": "PATH"}}]}),
    ("chardev-add", {"id": "c", "backend": {"data": {"addr": {"type": "unix", "data": {"path": "PATH"}}}}}),
    ("netdev_add", {"type": "stream", "id": "n", "addr": {"type": "unix", "path": "PATH"}}),
    ("netdev_add", {"type": "dgram", "id": "n", "local": {"type": "unix", "path": "PATH"}}),
    ("nbd-server-start", {"addr": {"type": "unix", "data": {"path": "PATH"}}}),
    ("block-export-add", {"type": "vhost-user-blk", "addr": {"type": "unix", "path": "PATH"}}),
    ("blockdev-add", {"driver": "nbd", "server": {"type": "unix", "path": "PATH"}}),
    ("drive-mirror", {"device": "a", "target": "nbd:unix:PATH:exportname=x", "sync": "full"}),
    ("drive-mirror", {"device": "a", "target": "nbd+unix:///x?socket=PATH", "sync": "full"}),
]


def filled(value, path):
    if isinstance(value, str):
        return value.replace("PATH", path)
    if isinstance(value, dict):
        return {key: filled(inner, path) for key, inner in value.items()}
    return [filled(inner, path) for inner in value] if isinstance(value, list) else value


def ids(case):
    return f"{case[0]}-{min(map(str, case[1].values()))[:30]}"


@pytest.mark.parametrize("case", FILE, ids=ids)
def test_a_file_is_reached_inside_and_not_outside(places, tmp_path, case):
    command, arguments = case
    for path in ("/etc/passwd", "../x/y", "out/x"):
        assert blocked(places, command, filled(arguments, path)), path
        assert not blocked(places, command, filled(arguments, path), {command})
    # What is nowhere is not taken for inside either.
    assert blocked(Places(), command, filled(arguments, "sub/x"))
    assert not blocked(places, command, filled(arguments, f"{tmp_path}/session/own/x"))


@pytest.mark.parametrize("case", SOCKET, ids=ids)
def test_a_socket_may_be_anywhere_in_the_session(places, tmp_path, case):
    command, arguments = case
    assert blocked(places, command, filled(arguments, "/run/other"))
    assert blocked(places, command, filled(arguments, "out/x"))
    assert not blocked(places, command, filled(arguments, f"{tmp_path}/session/m"))
    assert not blocked(places, command, filled(arguments, "s"))


@pytest.mark.parametrize("path", INSIDE)
def test_a_path_that_ends_inside(places, tmp_path, path):
    assert not blocked(places, "screendump", {"filename": path.format(t=tmp_path)})


@pytest.mark.parametrize("path", OUTSIDE, ids=repr)
def test_a_path_that_ends_outside(places, tmp_path, path):
    assert blocked(places, "screendump", {"filename": path.format(t=tmp_path)})


def test_a_directory_that_is_itself_a_link_counts_by_what_it_is(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    places = Places(tmp_path / "link", (tmp_path / "link",))
    assert not blocked(places, "screendump", {"filename": "x"})
    assert not blocked(places, "screendump", {"filename": os.fspath(tmp_path / "real/x")})


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("human-monitor-command", {"command-line": "info status"}),
        ("inject-nmi", {}),
        ("migrate", {"uri": "exec:touch /tmp/x"}),
        ("migrate-incoming", {"uri": "exec:cat x"}),
        ("migrate", {"channels": [{"addr": {"transport": "exec", "args": ["/bin/sh"]}}]}),
        ("migrate-set-parameters", {"cpr-exec-command": ["/bin/sh"]}),
        ("netdev_add", {"type": "tap", "id": "n"}),  # QEMU's own scripts
        ("netdev_add", {"type": "tap", "id": "n", "script": "no"}),
        ("netdev_add", {"type": "tap", "id": "n", "script": "own/up", "downscript": "no"}),
        ("netdev_add", {"type": "tap", "id": "n", "helper": "/usr/lib/helper"}),
        ("netdev_add", {"type": "bridge", "id": "n"}),
        ("netdev_add", {"type": "passt", "id": "n"}),
        ("netdev_add", {"type": "user", "id": "n", "smb": "share"}),
        ("netdev_add", {"type": "user", "id": "n", "guestfwd": [{"str": "tcp:10.0.2.9:80-cmd:cat"}]}),
        ("netdev_add", {"type": "user", "id": "n", "guestfwd": [{"str": "tcp:10.0.2.9:80-file:/etc/x"}]}),
        ("blockdev-add", {"driver": "nvme", "device": "0000:01:00.0", "namespace": 1}),
        ("drive-mirror", {"device": "a", "target": "json:{", "sync": "full"}),
        ("drive-mirror", {"device": "a", "target": "fat:rw:/etc", "sync": "full"}),
        ("migrate", {"uri": "sometime:later"}),
        ("new-command", {"how": "exec:reboot"}),
    ],
)
def test_what_runs_programs_or_takes_hardware_is_blocked(places, command, arguments):
    assert blocked(places, command, arguments)
    assert not blocked(places, command, arguments, {command})
    actions = {"actions": [{"type": "abort", "data": {}}, {"type": command, "data": arguments}]}
    assert blocked(places, "transaction", actions)


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("query-status", {}),
        ("query-what-there-will-be", {"path": "/machine/x"}),
        ("qom-get", {"path": "/machine/peripheral", "property": "type"}),
        ("qom-set", {"path": "/machine/peripheral/x", "property": "requested-size", "value": 5}),
        ("device_add", {"driver": "virtio-net-pci", "id": "n", "romfile": "efi-virtio.rom"}),
        ("device_add", {"driver": "usb-kbd", "bus": "usb.0"}),
        ("netdev_add", {"type": "user", "id": "n", "hostfwd": [{"str": "tcp:127.0.0.1:0-:22"}]}),
        ("netdev_add", {"type": "tap", "id": "n", "script": "no", "downscript": "no", "ifname": "tap0"}),
        ("netdev_add", {"type": "tap", "id": "n", "fd": "5"}),
        (
            "netdev_add",
            {"type": "stream", "id": "n", "addr": {"type": "unix", "path": "x", "abstract": True}},
        ),
        ("object-add", {"qom-type": "rng-random", "id": "r", "filename": "/dev/urandom"}),
        ("object-add", {"qom-type": "secret", "id": "s", "data": "/a/b"}),
        ("blockdev-add", {"driver": "null-co", "node-name": "n"}),
        ("blockdev-add", {"driver": "qcow2", "node-name": "n", "file": "disk/../../x"}),
        ("blockdev-backup", {"device": "a", "target": "b", "sync": "full"}),
        ("blockdev-snapshot", {"node": "a", "overlay": "b"}),
        ("block-commit", {"device": "a", "base-node": "b"}),
        ("block-stream", {"device": "a", "base": "/any/name"}),
        ("drive-mirror", {"device": "a", "target": "nbd:127.0.0.1:10809", "sync": "full"}),
        ("migrate", {"uri": "tcp:127.0.0.1:4444"}),
        ("migrate", {"uri": "fd:mig"}),
        ("dump-guest-memory", {"paging": False, "protocol": "fd:dump"}),
        ("chardev-add", {"id": "c", "backend": {"type": "null", "data": {}}}),
        ("transaction", {"actions": [{"type": "blockdev-snapshot-sync", "data": {"snapshot-file": "x"}}]}),
        # Of the wrong type: others say so.
        ("screendump", {"filename": 5}),
        ("transaction", {"actions": "x"}),
        ("transaction", {"actions": [5, {"type": 5}, {"type": "abort", "data": 5}]}),
        ("migrate", {"channels": 7}),
    ],
)
def test_what_is_not_in_the_way(places, command, arguments):
    assert not blocked(places, command, arguments)


def test_each_action_of_a_transaction_is_judged(places):
    good = {"type": "blockdev-snapshot-sync", "data": {"node-name": "a", "snapshot-file": "x"}}
    bad = {"type": "blockdev-snapshot-sync", "data": {"node-name": "a", "snapshot-file": "/etc/x"}}
    assert not blocked(places, "transaction", {"actions": [good]})
    assert blocked(places, "transaction", {"actions": [good, bad]})
    assert not blocked(places, "transaction", {"actions": [good, bad]}, {"blockdev-snapshot-sync"})
    assert not blocked(places, "transaction", {"actions": [good, bad]}, {"transaction"})
    with pytest.raises(CommandBlocked, match=r"arguments\.actions\[1\]\.data\.snapshot-file"):
        judge("transaction", {"actions": [good, bad]}, places, frozenset())


def test_the_table_has_reasons_and_known_classes():
    assert {entry.class_ for entry in table().values()} == {"safe", "privileged", "memory-dump", "dangerous"}
    assert all(len(entry.reason) > 3 for entry in table().values())
    assert table().keys() >= BLOCKED.keys()
    assert list(table()) == sorted(table())


@pytest.mark.parametrize(
    ("command", "class_", "disruptive"),
    [
        ("query-status", "safe", False),
        ("query-anything", "safe", False),
        ("frobnicate", "dangerous", False),
        ("human-monitor-command", "dangerous", False),
        ("pmemsave", "memory-dump", False),
        ("blockdev-del", "privileged", True),
        ("device_del", "privileged", True),
        ("quit", "privileged", True),
        ("system_powerdown", "privileged", True),
        ("system_reset", "privileged", True),
        ("stop", "privileged", False),
    ],
)
def test_classes(command, class_, disruptive):
    entry = classify(command)
    assert (entry.class_, entry.disruptive) == (class_, disruptive)


def test_a_permission_is_for_a_command_that_there_is():
    assert checked_permission("inject-nmi") == "inject-nmi"
    assert checked_permission("__com.vendor_thing") == "__com.vendor_thing"
    for wrong in ("inject-nmy", "Inject-nmi", 7, None):
        with pytest.raises(SpecError):
            checked_permission(wrong)
    with pytest.raises(SpecError) as caught:
        checked_permission("inject-nmy")
    assert "'inject-nmi'" in caught.value.hint
