"""A replicated store of three nodes, whose lines are cut: no split brain, and nothing is lost.

The store is a shell script, ``store``. It acknowledges a value when two of the three nodes have it.
"""

import itertools
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

STORE = "http://127.0.0.1/cgi-bin/store"
SCRIPT = "/srv/cgi-bin/store"


@pytest.fixture(scope="module")
def lan(module_network_factory):
    return module_network_factory()


@pytest.fixture(scope="module")
def nodes(module_vm_factory, lan):
    made = [module_vm_factory(f"node{number}", nics=[lan], start=False) for number in range(3)]
    side_by_side(partial(begin, node, made) for node in made)
    lan.wait_all_up()
    return made


def begin(node, nodes):
    node.start()
    node.run("mkdir -p /srv/cgi-bin")
    node.push(Path(__file__).with_name("store"), SCRIPT, mode=0o755)
    others = " ".join(other.ip for other in nodes if other is not node)
    node.write_text("/etc/store", f'own={node.ip} others="{others}"\n')
    node.run(f"httpd -h /srv && {SCRIPT} catch-up >/dev/null 2>&1 &")


def side_by_side(calls):
    with ThreadPoolExecutor(3) as pool:
        return list(pool.map(lambda call: call(), calls))


def ask_to_put(key, value):
    return f"wget -qO- --post-data={value} '{STORE}?put&{key}'"


def ask_for(key):
    return f"wget -qO- '{STORE}?get&{key}'"


def looks_for(**values):
    """Return a command that succeeds where a node itself has these values, whatever the others have."""
    return " && ".join(f"grep -qx {value} /var/store/{key}/*" for key, value in values.items())


def test_a_majority_goes_on_and_the_minority_refuses(nodes, lan):
    lost, two, three = nodes
    two.wait_until_succeeds(ask_to_put("color", "red"))
    lost.wait_until_succeeds(looks_for(color="red"))
    with lan.partition(lost, [two, three]):
        # A client tries again: a node that was busy may have been taken for one that is gone.
        two.wait_until_succeeds(ask_to_put("color", "green"))
        three.wait_until_succeeds(ask_to_put("color", "blue"))
        # It was acknowledged: so another one has it already, and the one that is lost cannot be it.
        assert two.run(looks_for(color="blue")).ok
        # It has red, and must not say so: it cannot know that there is nothing newer.
        refused = [ask_to_put("split", "brain"), ask_for("color")]
        for answer in side_by_side(partial(lost.run, ask, check=False) for ask in refused):
            assert "503" in answer.stderr
    lost.wait_until_succeeds(looks_for(color="blue"))
    for node in nodes:
        assert node.wait_until_succeeds(ask_for("color")).stdout == "blue\n"
        assert not node.run("ls /var/store/split", check=False).ok


def test_nothing_acknowledged_is_lost_whatever_the_lines_do(nodes, lan, chaos):
    def write(node):
        """Return what was acknowledged."""
        values = {f"{node.name}x{number}": f"value{number}" for number in range(3)}
        return [pair for pair in values.items() if node.run(ask_to_put(*pair), check=False).ok]

    weather = {
        "cut": partial(lan.partition, nodes[0]),
        "deaf": partial(lan.one_way, nodes[1], nodes[2]),
        "loss": partial(lan.impair, loss=0.1, delay=0.01, seed=1),
    }
    with chaos(weather, seed=3, interval=0.5):
        answers = side_by_side(partial(write, node) for node in nodes)
    acknowledged = dict(itertools.chain.from_iterable(answers))
    assert acknowledged
    for node in nodes:
        node.wait_until_succeeds(looks_for(**acknowledged))
