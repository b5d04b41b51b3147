"""What can be the name of a command, and that nothing is sent for what cannot."""

import pytest

from pytest_qemuvm.errors import CommandRejected, InvalidCommandName, QmpError
from pytest_qemuvm.qmp.names import checked_command

GOOD = [
    *(
        "query-status",
        "send-key",
        "device_add",
        "system_powerdown",
        "screendump",
        "blockdev-add",
        "netdev_add",
    ),
    *("a", "query-block-jobs", "x-query-usb", "x-debug-block-dirty-bitmap-sha256", "__org.vendor_x"),
    *("__com.redhat_drive-mirror", "inject-ghes-v2-error"),
]
BAD = [
    *("Query-status", "QUERY", "query status", " query-status", "query-status ", "quit;quit", "quit&&quit"),
    *("quit|cat", "`quit`", "$(quit)", "../quit", "/quit", "", "1quit", "-quit", "_quit", "__quit", "__x_"),
    *(
        "que\u0301ry",
        "qu\u0456t",
        "\uff51uit",
        "quit\0",
        "\0",
        "quit\n",
        "\nquit",
        "quit\r",
        "quit\t",
        "a\u2028",
    ),
    *('quit"', "quit\\", "{}", "\ud800", "x" * 101),
    *(None, 7, b"quit", ["quit"], 1.5),
]


@pytest.mark.parametrize("name", GOOD)
def test_a_name_that_qemu_could_have(name):
    assert checked_command(name) == name


@pytest.mark.parametrize("name", BAD, ids=repr)
def test_for_a_name_that_is_none_not_a_byte_is_sent(client, peer, in_thread, name):
    with pytest.raises(InvalidCommandName) as caught:
        client.execute(name, allow_dangerous=True)
    assert isinstance(caught.value, (CommandRejected, QmpError))
    calling = in_thread(client.execute, "good")
    assert peer.answer(1)["execute"] == "good"
    assert calling.result(10) == 1
    assert client.transcript()[0].startswith("-- not sent: ")


@pytest.mark.parametrize("act", [lambda qmp: qmp.post("Quit"), lambda qmp: qmp.inspect([("quit\n", {})])])
def test_there_is_no_other_door(client, act):
    with pytest.raises(InvalidCommandName):
        act(client)
