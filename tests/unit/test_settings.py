import pytest

from pytest_qemuvm.errors import SettingsError
from pytest_qemuvm.spec.settings import OPTIONS, resolve


def test_nothing_said_leaves_the_mode_open():
    settings = resolve({}, {}, {})
    assert settings.mode is None
    assert (settings.accel, settings.keep, settings.network_dry_run, settings.strict) == (
        "auto",
        "failed",
        True,
        False,
    )


@pytest.mark.parametrize("word", ["1", "true", "YES", "Yes", "on"])
@pytest.mark.parametrize("variable", ["QEMUVM_DRY_RUN", "VMAN_OPERATOR_DRY_RUN"])
def test_both_spellings_of_the_variable_ask_for_dry_run(variable, word):
    settings = resolve({}, {variable: word}, {})
    assert settings.mode == "dry-run"
    assert variable in settings.mode_source


@pytest.mark.parametrize("word", ["0", "false", "no", "No"])
def test_dry_run_denied_is_real_demanded(word):
    assert resolve({}, {"QEMUVM_DRY_RUN": word}, {}).mode == "real"


@pytest.mark.parametrize(
    "variable",
    [
        "QEMUVM_DRY_RUN",
        "QEMUVM_NETWORK_DRY_RUN",
        "VMAN_OPERATOR_DRY_RUN",
        "VMAN_NETWORK_DRY_RUN",
        "QEMUVM_REAL",
    ],
)
def test_any_other_word_is_refused_and_the_variable_named(variable):
    with pytest.raises(SettingsError) as caught:
        resolve({}, {variable: "maybe"}, {})
    assert variable in caught.value.brief


def test_an_empty_variable_is_an_unset_one():
    assert resolve({}, {"QEMUVM_DRY_RUN": "", "QEMUVM_ACCEL": " "}, {}) == resolve({}, {}, {})


@pytest.mark.parametrize(
    ("new", "old"),
    [("QEMUVM_DRY_RUN", "VMAN_OPERATOR_DRY_RUN"), ("QEMUVM_NETWORK_DRY_RUN", "VMAN_NETWORK_DRY_RUN")],
)
def test_spellings_that_disagree_are_refused_and_agreeing_ones_are_not(new, old):
    with pytest.raises(SettingsError) as caught:
        resolve({}, {new: "1", old: "0"}, {})
    assert new in caught.value.brief
    assert old in caught.value.brief
    resolve({}, {new: "1", old: "yes"}, {})


def test_the_network_has_a_mode_of_its_own():
    assert resolve({"real": True}, {}, {}).network_dry_run is True
    assert resolve({}, {"QEMUVM_NETWORK_DRY_RUN": "0"}, {}).network_dry_run is False
    assert resolve({}, {"VMAN_NETWORK_DRY_RUN": "no"}, {}).network_dry_run is False


def test_command_line_over_environment_over_ini():
    ini = {"accel": "tcg", "dry-run": "1"}
    environ = {"QEMUVM_ACCEL": "kvm", "QEMUVM_REAL": "1"}
    assert resolve({}, {}, ini).accel == "tcg"
    assert resolve({}, {}, ini).mode == "dry-run"
    assert resolve({}, environ, ini).accel == "kvm"
    assert resolve({}, environ, ini).mode == "real"
    assert resolve({"accel": "auto", "dry-run": True}, environ, ini).accel == "auto"
    assert resolve({"dry-run": True}, environ, ini).mode == "dry-run"


@pytest.mark.parametrize(
    "levels",
    [
        ({"real": True, "dry-run": True}, {}, {}),
        ({}, {"QEMUVM_REAL": "1", "QEMUVM_DRY_RUN": "1"}, {}),
        ({}, {"QEMUVM_REAL": "0", "QEMUVM_DRY_RUN": "0"}, {}),
        ({}, {}, {"real": "yes", "dry-run": "yes"}),
        # A contradiction below is one even where a level above decides.
        ({"real": True}, {"QEMUVM_REAL": "1", "VMAN_OPERATOR_DRY_RUN": "1"}, {}),
    ],
)
def test_contradictions_on_one_level_are_refused(levels):
    with pytest.raises(SettingsError):
        resolve(*levels)


@pytest.mark.parametrize(
    ("option", "near"), [("accel", "kvm"), ("keep", "failed"), ("network-dry-run", None)]
)
def test_a_word_that_an_option_does_not_know_names_the_option_and_the_nearest(option, near):
    bad = {"accel": "kvn", "keep": "fail", "network-dry-run": "perhaps"}[option]
    with pytest.raises(SettingsError) as caught:
        resolve({option: bad}, {}, {})
    assert f"--qemu-{option}" in caught.value.brief
    if near:
        assert near in caught.value.hint


@pytest.mark.parametrize("bad", ["17", "-1", "two", "1.5", "\u00b2", "1_0"])
def test_the_pool_has_a_size_from_0_to_16(bad):
    assert [resolve({"pool": word}, {}, {}).pool for word in ("0", "3", "16")] == [0, 3, 16]
    assert resolve({}, {}, {}).pool == 0
    assert resolve({"pool": "0"}, {"QEMUVM_POOL": "2"}, {"pool": "4"}).pool == 0
    assert resolve({}, {"QEMUVM_POOL": "2"}, {"pool": "4"}).pool == 2
    with pytest.raises(SettingsError) as caught:
        resolve({}, {"QEMUVM_POOL": bad}, {})
    assert "QEMUVM_POOL" in caught.value.brief
    assert "16" in caught.value.hint


def test_every_option_has_its_variable_and_its_ini_value():
    for option in OPTIONS:
        value = option.choices[-1] if option.choices else "1"
        by_cli = resolve({option.name: value}, {}, {})
        assert resolve({}, {option.variable: value}, {}) == by_cli or option.name in ("real", "dry-run")
        assert resolve({}, {}, {option.name: value}) == by_cli or option.name in ("real", "dry-run")
