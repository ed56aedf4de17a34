"""`espalier-agent --uninstall` on hosts: refused while anything of Espalier's runs or
pods are attached; then nothing of Espalier's is left, and all that is others'."""

import signal

from lab import Node
from lab.leftovers import leftovers
from lab.mesh import Mesh


def folders(node: Node) -> tuple:
    return node.folder / "net.d", node.folder / "cni-bin"


def left(node: Node) -> list[str]:
    configurations, binaries = folders(node)
    found = leftovers(node.namespace.run, configurations / "00-espalier.conflist",
                      binaries / "espalier-cni", node.bpf_pins, node.folder / "state",
                      node.run_directory)
    if node.driver == "kernel":
        for words in (["ip", "xfrm", "state"], ["ip", "xfrm", "policy"]):
            found += node.namespace.run(words).stdout.splitlines()[:1]
    # A TUN without its espd has no carrier.
    return sorted(line.replace(" linkdown", "").rstrip() for line in found)


def uninstall(node: Node, *flags: str) -> tuple[int, str]:
    configurations, binaries = folders(node)
    result = node.namespace.run(
        [node.agent_binary, "--config", node.config_path, "--uninstall",
         "--cni-conf-dir", configurations, "--cni-bin-dir", binaries, *flags], check=False)
    assert result.stderr == "", result.stderr
    return result.returncode, result.stdout


def install_plugin(node: Node) -> None:
    for folder, name in zip(folders(node), ("00-espalier.conflist", "espalier-cni")):
        folder.mkdir()
        (folder / name).write_text("{}")
        (folder / "other").write_text("{}")


def add_foreign(node: Node) -> None:
    uplink = node.uplink.device
    for words in (["nft", "add", "table", "inet", "foreign"],
                  ["ip", "route", "add", "198.51.100.0/24", "dev", uplink],
                  ["ip", "-6", "route", "add", "blackhole", "2001:db8:9::/48"],
                  ["ip", "rule", "add", "from", "203.0.113.7", "lookup", "4502"]):
        node.namespace.run(words)


def foreign(node: Node) -> list[str]:
    text = "".join(node.namespace.run(words).stdout for words in (
        ["nft", "list", "tables"], ["ip", "route"], ["ip", "-6", "route"], ["ip", "rule"],
        ["ip", "address"]))
    return [word for word in ("table inet foreign", "198.51.100.0/24", "2001:db8:9::/48",
                              "203.0.113.7", *node.addresses) if word in text] + [
        str(folder / "other") for folder in folders(node) if (folder / "other").exists()]


def end(process) -> None:
    process.signal(signal.SIGTERM)
    assert process.wait(10) == 0


def test_uninstall(lab):
    mesh = Mesh(lab, extra={"modes": {"default": "required"}}).up()
    a, b = mesh.nodes
    for node in (a, b):
        install_plugin(node)
        add_foreign(node)
    before = foreign(a)
    assert len(before) == 8
    stands = left(a)
    # A table of each guard and of masquerading, two interfaces, and the files.
    assert len(stands) > 20, stands

    # What a `required` pod sends meanwhile is on the wire in ESP or not at all.
    for family, address in enumerate((b.pods["pod1"].ipv4, b.pods["pod1"].ipv6)):
        a.pods["pod1"].namespace.start(f"ping-{family}", ["ping", "-n", "-i", "0.01", address])
    code, said = uninstall(a, "--force")
    assert code == 4 and "another agent (process" in said
    end(a.agent)
    code, said = uninstall(a, "--force")
    assert code == 4 and "espalier-espd runs" in said
    end(a.espd)
    code, said = uninstall(a)
    assert code == 5 and "default/pod1" in said and "--force" in said
    # What the ended programs took away themselves is all that is missing.
    assert left(a) == stands and foreign(a) == before

    # The first step fails: nothing else is touched.
    conflist = folders(a)[0] / "00-espalier.conflist"
    conflist.unlink()
    conflist.mkdir()
    code, said = uninstall(a, "--force")
    assert code == 1 and "CNI plugin: FAILED" in said and "guard" not in said
    assert left(a) == stands
    conflist.rmdir()

    code, said = uninstall(a, "--force")
    print(said)
    assert code == 0 and "default/pod1" in said
    order = [said.index(step) for step in ("CNI plugin", "pods' interfaces", "routes",
                                           "nftables guard", "eBPF guard", "state")]
    assert order == sorted(order)
    assert left(a) == []
    assert foreign(a) == before
    code, said = uninstall(a)
    assert code == 0 and said.count("nothing there") == len(said.splitlines()) - 1, said
    assert left(a) == []

    # A DEL that waits for an agent is no pod.
    end(b.agent)
    b.delete_pod(b.pods["pod1"])
    end(b.espd)
    code, said = uninstall(b)
    assert code == 0, said
    assert left(b) == []
    mesh.finish()
