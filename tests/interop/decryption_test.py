"""tshark, which shares no code with Espalier, reads a capture of the demo with
the nodes' key logs and finds every ICV right.

Extended sequence numbers are off: Wireshark 4.0 knows none, and the high half
that is not sent is part of what the ICV covers (RFC 4303 2.2.1).
"""

import pathlib

import pytest

from interop.tshark import TABLES, installed, judge, spoil_keys
from lab import CLUSTER_CIDRS
from lab.transfer import tcp_transfer
from netns.demo import Demo

pytestmark = pytest.mark.skipif(not installed(), reason="needs tshark")

PSK = "what all three nodes of the demo share"


def merge(logs: list[pathlib.Path], to: pathlib.Path) -> None:
    """Both ends of an SA log it: each line once."""
    to.mkdir()
    for name in TABLES:
        lines = {line for log in logs for line in (log / name).read_text().splitlines()}
        (to / name).write_text("".join(line + "\n" for line in sorted(lines)))


@pytest.mark.parametrize("cipher", ["aes256gcm16", "aes128-sha256"])
def test_every_icv_of_the_demo_is_right(lab, cipher):
    demo = Demo(lab, key_log=True)
    demo.lay_wire()
    for node in demo.nodes:
        node.write_config(
            [peer for peer in demo.nodes if peer is not node], PSK, key_log=True,
            extra={"proposals": {"ike": [f"{cipher}-prfsha384-x25519"],
                                 "child": [f"{cipher}-x25519-noesn"]}})
    for step in (demo.start_capture, demo.start_nodes, demo.attach_pods,
                 demo.wait_for_tunnels, demo.ping_all):
        step()
    source, target = demo.nodes[0].pods["pod1"], demo.nodes[1].pods["pod2"]
    for address in (target.ipv4, target.ipv6):
        tcp_transfer(source.namespace, target.namespace, address, megabytes=1)
    packets = demo.capture.stop()
    assert demo.capture.cidrs == CLUSTER_CIDRS and packets.plaintext == 0

    keys = lab.folder / "keys"
    merge([node.key_log for node in demo.nodes], keys)
    right = judge(demo.capture.path, keys, lab.folder / "right")
    assert (right.ike_bad, right.ike_unread, right.esp_bad, right.esp_unread) == (0, 0, 0, 0)
    # Three pairs of nodes, an IKE_AUTH request and its response each.
    assert right.ike_good >= 6
    assert right.esp_good == packets.esp
    assert right.inner >= demo.report.pings

    spoil_keys(keys, lab.folder / "spoiled")
    wrong = judge(demo.capture.path, lab.folder / "spoiled", lab.folder / "wrong")
    assert wrong.ike_good == 0 and wrong.ike_bad == right.ike_good
    assert wrong.esp_good == 0 and wrong.esp_bad > 0.8 * right.esp_good
