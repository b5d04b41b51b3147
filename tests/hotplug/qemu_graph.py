"""What a device could leave in QEMU and on the host."""


def graph(vm):
    execute = vm.qmp.execute
    return {
        "devices": {entry["name"] for entry in execute("qom-list", {"path": "/machine/peripheral"})},
        "objects": {entry["name"] for entry in execute("qom-list", {"path": "/objects"})},
        "nodes": {node["node-name"] for node in execute("query-named-block-nodes")},
        "chardevs": {chardev["label"] for chardev in execute("query-chardev")},
        "netdevs": execute("human-monitor-command", {"command-line": "info network"}, allow_dangerous=True),
        "files": {path.name for path in vm.run_dir.iterdir()},
        "sockets": {path.name for path in vm.run_dir.parent.glob("s*")},
    }
