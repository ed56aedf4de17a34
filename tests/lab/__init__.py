"""A laboratory on one machine: nodes and pods as network namespaces on one
wire, with a capture that sees the wire. Used by tests/netns, tests/interop,
tests/cni, tests/bench and ./dev demo.

    with Lab("name") as lab:
        wire = Wire(lab)
        a = Namespace(lab, "a")
        wire.attach(a, 1)
        a.run(["ping", "-c1", "192.0.2.2"])

Everything that a Lab starts or makes is undone when it ends, however it ends;
what a killed run left behind is undone by the next one.
"""

from lab.capture import Capture, Packets, read_pcap, send_plaintext
from lab.errors import LabError
from lab.golang import go_program
from lab.namespace import Namespace
from lab.node import CLUSTER_CIDRS, Node, Pod
from lab.process import Process
from lab.session import Lab, binary, wait_until
from lab.wire import Wire

__all__ = [
    "CLUSTER_CIDRS", "Capture", "Lab", "LabError", "Namespace", "Node", "Packets",
    "Pod", "Process", "Wire", "binary", "go_program", "read_pcap", "send_plaintext",
    "wait_until",
]
