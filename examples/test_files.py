"""Files go in and out whole; a script gets input and an environment."""

SCRIPT = """#!/bin/sh
while read -r name; do
    echo "$GREETING, $name"
done
"""


def test_a_script_with_input_and_environment(vm):
    vm.write_text("/usr/local/bin/greet", SCRIPT, mode=0o755)
    result = vm.run("greet", input="Ada\nGrace\n", env={"GREETING": "Good morning"})
    assert result.stdout == "Good morning, Ada\nGood morning, Grace\n"


def test_a_binary_file_comes_back_as_it_went(vm, tmp_path):
    original = tmp_path / "data.bin"
    original.write_bytes(bytes(range(256)) * 4096)
    vm.push(original, "/root/data.bin")
    vm.run("gzip /root/data.bin && gunzip /root/data.bin.gz")
    copy = vm.pull("/root/data.bin", tmp_path / "copy.bin")
    assert copy.read_bytes() == original.read_bytes()


def test_output_may_be_anything(vm):
    assert vm.run("printf 'a\\000b\\377'").stdout_bytes == b"a\x00b\xff"
