"""``qemuvm.yaml``: what it may say, and how it is told what it may not."""

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_qemuvm import DiskSpec, DriverSpec, NicSpec, SerialSpec
from pytest_qemuvm.errors import SettingsError
from pytest_qemuvm.spec.suite import NO_SUITE
from pytest_qemuvm.spec.suite_file import parse_suite


@pytest.fixture
def parse(tmp_path):
    return lambda text: parse_suite(text, tmp_path / "qemuvm.yaml")


@pytest.mark.parametrize("text", ["", "# nothing\n", "vms:\n", "{}", "vms: {}\ntemplates: {}\ndisks: {}\n"])
def test_a_file_that_names_nothing_is_one(parse, text):
    assert parse(text) == NO_SUITE


def test_everything_that_can_be_said(parse, tmp_path):
    suite = parse(
        """
templates:
  web:
    base: tiny
    memory: 512M
    setup: [mkdir /www, "echo hello >/www/index.html"]
    setup_timeout: 120
  debian:
    base: web
    image: images/debian.img
    format: raw
vms:
  db: &db
    template: debian
    cpus: 2
    balloon: yes
    disks:
      - {size: 64M, serial: data}
      - {size: 1G, bus: scsi, format: raw}
    nics: [{forward: [80, 443]}, {mac: "52:54:00:12:34:56", boot: true}]
    boot: network
    serials: [{name: metrics, properties: {nr: 5}}]
    devices:
      - {driver: edu, properties: {dma_mask: 0xff}}
      - {driver: usb-host, bus: usb, properties: {path: not/a/file/of/ours, kernel: 5, pipeline: off}}
    args: [-rtc, base=2000-01-01]
    append: quiet
    boot_timeout: 30
  copy: {<<: *db, cpus: 3}
  own: {template: bare, image: images/own.img, format: raw, boot: disk}
disks:
  data: {size: 1G, format: raw, serial: data}
  root: {template: debian}
  plain:
"""
    )
    assert suite.templates["web"].keywords == {"memory": "512M"}
    assert suite.templates["web"].setup == ("mkdir /www", "echo hello >/www/index.html")
    assert suite.templates["web"].setup_timeout == 120
    assert (suite.templates["debian"].base, suite.templates["debian"].image) == (
        "web",
        tmp_path / "images/debian.img",
    )
    db = suite.vms["db"]
    assert db["disks"] == (DiskSpec("64M", serial="data"), DiskSpec("1G", bus="scsi", format="raw"))
    assert db["nics"] == (NicSpec(forward=(80, 443)), NicSpec(mac="52:54:00:12:34:56", boot=True))
    assert db["boot"] == "network"
    assert db["serials"] == (SerialSpec("metrics", {"nr": 5}),)
    assert db["devices"] == (
        DriverSpec("edu", {"dma_mask": 255}),
        DriverSpec("usb-host", {"path": "not/a/file/of/ours", "kernel": 5, "pipeline": False}, bus="usb"),
    )
    assert (db["template"], db["cpus"], db["balloon"], db["args"]) == (
        "debian",
        2,
        True,
        ["-rtc", "base=2000-01-01"],
    )
    assert suite.vms["copy"] == {**db, "cpus": 3}
    assert suite.vms["own"]["image"] == str(tmp_path / "images/own.img")
    assert suite.disks == {
        "data": {"size": "1G", "format": "raw", "serial": "data"},
        "root": {"template": "debian"},
        "plain": {},
    }


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("vsm: {}", 1, ["'vsm'", "'vms'"]),
        ("vms:\n  db:\n    memroy: 1G", 3, ["'memroy'", "'memory'"]),
        ("templates:\n  web:\n    bsae: tiny", 3, ["'bsae'", "'base'"]),
        ("disks:\n  data: {size: 1G,\n    fromat: raw}", 3, ["'fromat'", "'format'"]),
        ("vms:\n  db:\n    disks:\n      - size: 1M\n        sreial: x", 5, ["'sreial'", "'serial'"]),
        ("vms:\n  db:\n    disks:\n      - {size: 1M, handle: x}", 4, ["'handle'"]),
        ("vms:\n  db:\n    memory: 512", 3, ["memory"]),
        ("vms:\n  db:\n    cpus: two", 3, ["cpus"]),
        ("vms:\n  db:\n    balloon: 'yes'", 3, ["balloon"]),
        ("vms:\n  db:\n    append: 5", 3, ["append", "quotes"]),
        ("vms:\n  db:\n    template: 5", 3, ["template", "quotes"]),
        ("vms:\n  db:\n    kernel: no/such", 3, ["no/such"]),
        ("vms:\n  db:\n    disks: 64M", 3, ["disks", "list"]),
        ("vms:\n  db:\n    disks:\n      - 64M", 4, ["mapping"]),
        ("vms:\n  db:\n    disks:\n      - {}", 4, ["size"]),
        ("vms:\n  db:\n    serials:\n      - {}", 4, ["name"]),
        ("vms:\n  db:\n    nics:\n      - forward: [99999]", 4, ["99999"]),
        ("vms:\n  db:\n    nics:\n      - mac: 52:54:00:12:34:56", 4, ["mac", "quotes"]),
        ("vms:\n  db:\n    nics:\n      - outward: 1", 4, ["outward"]),
        ("vms:\n  db:\n    nics:\n      - boot: first", 4, ["boot"]),
        ("vms:\n  db:\n    boot: true", 3, ["way to boot"]),
        ("vms:\n  db: tiny", 2, ["mapping"]),
        ("vms:\n  db:\n    devices: [{drvier: edu}]", 3, ["'drvier'", "'driver'"]),
        ("vms:\n  db:\n    devices: [{driver: edu, bus: pic}]", 3, ["'pic'", "'pci'"]),
        ("vms:\n  db:\n    devices:\n      - driver: 5", 4, ["driver", "quotes"]),
        ("vms:\n  db:\n    devices:\n      - {}", 4, ["driver"]),
        ("vms:\n  db:\n    devices:\n      - driver: edu\n        properties: [a]", 5, ["mapping"]),
        ("vms:\n  db:\n    devices:\n      - {driver: edu, properties: {id: x}}", 4, ["'id'"]),
        ("vms:\n  db:\n    devices:\n      - {driver: edu, properties: {a: [1]}}", 4, ["a", "[1]"]),
        (
            "vms:\n  db:\n    devices:\n    - driver: edu\n      properties:\n        a: 1\n        a: 2",
            7,
            ["'a'"],
        ),
        ("vms:\n  db:\n    disks:\n      - {size: 1M, properties: {serial: x}}", 4, ["'serial'"]),
        ("vms:\n  db:\n    nics:\n      - {propreties: {}}", 4, ["'propreties'", "'properties'"]),
        ("vms:\n  a/b: {}", 2, ["'a/b'"]),
        ("vms:\n  7: {}", 2, ["7"]),
        ("- vms", 1, ["mapping"]),
        ("vms:\n  db: {}\n  db: {}", 3, ["'db'", "line 2"]),
        ("templates:\n  tiny: {}", 2, ["built in"]),
        ("templates:\n  web: {base: tnyi}", 2, ["'tnyi'", "'tiny'"]),
        ("templates:\n  a: {base: b}\n  b: {base: a}", 2, ["itself"]),
        ("templates:\n  web:\n    image: x.img", 2, ["format"]),
        ("templates:\n  web:\n    setup: {a: b}", 3, ["setup"]),
        ("templates:\n  web: {setup: x, setup_timeout: soon}", 2, ["setup_timeout"]),
        ("vms:\n  db:\n    image: x.img", 3, ["format"]),
        ("vms:\n  db:\n    cpus: 2\n    format: raw", 4, ["image"]),
        ("vms:\n  db:\n    boot: disc", 3, ["'disc'", "'disk'"]),
        ("templates:\n  web:\n    setup: []", 3, ["setup"]),
        ("disks:\n  data:\n    size: 0", 3, ["size"]),
        ("disks:\n  data:\n    serial: 12345", 3, ["serial", "quotes"]),
        ("disks:\n  data:\n    format: vmdk", 3, ["vmdk"]),
        ("vms:\n  db: [\n", 3, []),
        ("vms: *nowhere", 1, ["nowhere"]),
        ("vms: !!python/object:os.system {}", 1, []),
        ("vms:\n  db:\n    args: !!python/name:os.system ''", 3, ["python"]),
        ("vms: &a\n  db: *a", 2, ["'db'"]),
        ("\tvms: {}", 1, []),
        ("vms: {}\n---\nvms: {}", 2, []),
    ],
)
def test_what_is_wrong_is_said_with_file_line_and_the_nearest_right_word(parse, tmp_path, text, line, words):
    with pytest.raises(SettingsError) as caught:
        parse(text)
    assert caught.value.brief.startswith(f"{tmp_path / 'qemuvm.yaml'}:{line}: ")
    for word in words:
        assert word in str(caught.value)


def is_read_or_refused(text, path):
    try:
        parse_suite(text, path)
    except SettingsError as error:
        return error.brief.startswith(f"{path}:")
    return True


_SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
_KEYS = st.sampled_from(
    ["vms", "templates", "disks", "db", "memory", "disks", "size", "nics", "base", "setup", "image", "format"]
) | st.text(max_size=4)
_TREES = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=3),
    max_leaves=12,
)


@settings(deadline=None, max_examples=300)
@given(tree=st.dictionaries(st.sampled_from(["vms", "templates", "disks"]), _TREES) | _TREES)
def test_whatever_a_file_says_it_is_read_or_refused_in_one_way(tmp_path_factory, tree):
    assert is_read_or_refused(yaml.safe_dump(tree), tmp_path_factory.getbasetemp() / "qemuvm.yaml")


@settings(deadline=None, max_examples=300)
@given(text=st.text(alphabet="vmsdik: \n-{}[]&*!'\"#|>%@`\0\x85\ufeff?,", max_size=60))
def test_no_text_breaks_the_reader(tmp_path_factory, text):
    assert is_read_or_refused(text, tmp_path_factory.getbasetemp() / "qemuvm.yaml")
