"""Impairments and addresses as values: what they refuse."""

from ipaddress import IPv4Address, IPv4Network, IPv6Network

import pytest

from pytest_qemuvm.errors import SpecError
from pytest_qemuvm.spec.addresses import checked_mac
from pytest_qemuvm.spec.segment import Addressing, Impairment, checked_host

NAN = float("nan")
INFINITY = float("inf")


@pytest.mark.parametrize(
    "wrong",
    [
        {"loss": 100},
        {"loss": 1.0001},
        {"loss": -0.1},
        {"loss": NAN},
        {"loss": "0.1"},
        {"loss": True},
        {"loss": None},
        {"duplicate": 2},
        {"reorder": 0.1},
        {"reorder": 5, "delay": 1},
        {"delay": -1},
        {"delay": INFINITY},
        {"delay": NAN},
        {"delay": 601},
        {"jitter": 0.1},
        {"delay": 0.1, "jitter": 0.2},
        {"delay": 0.1, "jitter": -0.1},
        {"bandwidth": 0},
        {"bandwidth": 1e-300},
        {"bandwidth": -5},
        {"bandwidth": INFINITY},
        {"bandwidth": NAN},
        {"bandwidth": "1M"},
        {"seed": 1.5},
        {"seed": True},
    ],
)
def test_impairments_that_cannot_be(wrong):
    with pytest.raises(SpecError):
        Impairment(**wrong)


def test_percents_are_told_from_shares():
    with pytest.raises(SpecError) as caught:
        Impairment(loss=5)
    assert "0.05" in caught.value.hint


def test_impairments_at_their_bounds():
    Impairment(loss=1, duplicate=1, reorder=1, delay=600, jitter=600, bandwidth=1, seed=-1)
    assert Impairment() == Impairment(0, 0, 0, 0, 0, None, None)
    assert hash(Impairment(loss=0.5)) == hash(Impairment(loss=0.5))


def test_the_first_address_is_the_switchs():
    addressing = Addressing(IPv4Network("10.1.2.0/24"))
    assert addressing.gateway == addressing.station == IPv4Address("10.1.2.1")
    assert Addressing(IPv4Network("10.1.2.0/24"), IPv4Address("10.1.2.9")).station == IPv4Address("10.1.2.9")
    assert Addressing(IPv4Network("10.1.2.0/24"), domain="Lab.Test").domain == "lab.test"


@pytest.mark.parametrize(
    "wrong",
    [
        {"network": "10.1.2.0/24"},
        {"network": IPv6Network("fd00::/64")},
        {"network": IPv4Network("10.1.2.0/31")},
        {"network": IPv4Network("10.1.2.0/24"), "gateway": IPv4Address("10.1.3.1")},
        {"network": IPv4Network("10.1.2.0/24"), "gateway": IPv4Address("10.1.2.0")},
        {"network": IPv4Network("10.1.2.0/24"), "gateway": IPv4Address("10.1.2.255")},
        {"network": IPv4Network("10.1.2.0/24"), "gateway": "10.1.2.1"},
        {"network": IPv4Network("10.1.2.0/24"), "domain": ""},
        {"network": IPv4Network("10.1.2.0/24"), "domain": "a..b"},
        {"network": IPv4Network("10.1.2.0/24"), "domain": "a b"},
    ],
)
def test_addresses_that_cannot_be(wrong):
    with pytest.raises(SpecError):
        Addressing(**wrong)


def test_names_and_interfaces():
    assert checked_host("DB-1.Lab_2", "name") == "db-1.lab_2"
    assert checked_mac("52:54:00:AA:bb:01") == "52:54:00:aa:bb:01"
    for wrong in ("", ".", "a.", "-" * 64, "ä", "x" * 96, None, 5, "a\n"):
        with pytest.raises(SpecError):
            checked_host(wrong, "name")
    for wrong in (
        "",
        "52:54:00:aa:bb",
        "01:54:00:aa:bb:01",
        None,
        "52-54-00-aa-bb-01",
        "52:54:00:aa:bb:01\n",
    ):
        with pytest.raises(SpecError):
            checked_mac(wrong)
