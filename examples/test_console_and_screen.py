"""The serial console, the keyboard and the screen, for what happens before and below any agent."""


def test_a_conversation_on_the_serial_console(vm):
    vm.console.send("echo $((6 * 7)) is the answer")
    vm.console.expect("^42 is the answer$")
    assert "42 is the answer" in vm.console.text


def test_typing_at_the_keyboard(vm):
    vm.wait_until_succeeds("ps | grep -q '[t]ty1'")
    vm.type_text("echo Typed > /tmp/typed\n")
    vm.wait_for_file("/tmp/typed")
    assert vm.read_text("/tmp/typed") == "Typed\n"


def test_a_picture_of_the_screen(vm, tmp_path):
    picture = vm.screenshot(tmp_path / "screen.png")
    assert picture.read_bytes().startswith(b"\x89PNG")
