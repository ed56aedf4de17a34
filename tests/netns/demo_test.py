"""The demo's own steps, as a test, and its clean-up."""

from demo import NODES, Demo, run_steps


def test_three_nodes_talk_through_esp_only(lab):
    demo = Demo(lab)
    run_steps(demo)
    report = demo.report
    # Six pods, four of them on other nodes, two families.
    assert report.pings == 6 * 4 * 2
    assert report.packets.plaintext == 0
    assert report.packets.controls == report.controls_sent == 4
    # Two transfers at the path's MTU, or the capture missed most of them.
    assert report.packets.esp > 2 * demo.transfer_mb * (1 << 20) // 1500
    for node in NODES:
        assert len(report.tunnels[node]) == len(NODES) - 1
