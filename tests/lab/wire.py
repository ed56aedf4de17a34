"""The wire: a bridge in a namespace of its own, where a capture sees what a
network would see."""

import dataclasses

from lab.namespace import Namespace
from lab.session import Lab

# RFC 5737 and RFC 3849: documentation addresses, that no real host has.
IPV4_NET = "192.0.2"
IPV6_NET = "2001:db8:"
BRIDGE = "br0"
OFFLOADS = ("tso", "gso", "gro", "tx-udp-segmentation")


@dataclasses.dataclass(frozen=True)
class Uplink:
    device: str
    ipv4: str
    ipv6: str
    mac: str


class Wire:
    """offloads=False: every packet stands by itself on the wire, as on a real
    network card without them; a capture then sees real packets and not the
    kernel's super-packets. True for throughput."""

    def __init__(self, lab: Lab, *, suffix: str = "wire", mtu: int = 1500,
                 offloads: bool = False, ipv4_net: str = IPV4_NET,
                 ipv6_net: str = IPV6_NET):
        self.namespace = Namespace(lab, suffix)
        self.mtu = mtu
        self.ipv4_net = ipv4_net
        self.ipv6_net = ipv6_net
        self.offloads = offloads
        run = self.namespace.run
        run(["ip", "link", "add", BRIDGE, "address", "02:00:00:00:ff:01",
             "type", "bridge", "stp_state", "0", "mcast_snooping", "0"])
        self.namespace.sysctl(f"net.ipv6.conf.{BRIDGE}.disable_ipv6", 1)
        run(["ip", "link", "set", BRIDGE, "mtu", mtu, "up"])

    def addresses(self, number: int) -> tuple[str, str]:
        return f"{self.ipv4_net}.{number}", f"{self.ipv6_net}:{number:x}"

    def attach(self, node: Namespace, number: int, *, device: str = "eth0",
               ipv4: bool = True, ipv6: bool = True) -> Uplink:
        """Gives the node an uplink with the addresses 192.0.2.N/24 and
        2001:db8::N/64, or those of the wire's other nets. Its MAC is fixed: a restarted node's neighbours keep a
        right entry."""
        uplink = Uplink(device, *self.addresses(number), f"02:00:00:00:00:{number:02x}")
        port = f"port{number}"
        self.namespace.run(
            ["ip", "link", "add", port, "mtu", self.mtu, "type", "veth",
             "peer", "name", device, "netns", node.path, "mtu", self.mtu,
             "address", uplink.mac])
        self.namespace.sysctl(f"net.ipv6.conf.{port}.disable_ipv6", 1)
        self.namespace.run(["ip", "link", "set", port, "master", BRIDGE, "up"])
        # Without duplicate address detection, or the address is unusable for
        # the first seconds.
        node.sysctl(f"net.ipv6.conf.{device}.accept_dad", 0)
        node.sysctl(f"net.ipv6.conf.{device}.accept_ra", 0)
        if ipv4:
            node.run(["ip", "address", "add", f"{uplink.ipv4}/24", "dev", device])
        if ipv6:
            node.run(["ip", "address", "add", f"{uplink.ipv6}/64", "dev", device, "nodad"])
        node.run(["ip", "link", "set", device, "up"])
        if not self.offloads:
            for namespace, name in ((self.namespace, port), (node, device)):
                namespace.run(["ethtool", "-K", name,
                               *(word for offload in OFFLOADS for word in (offload, "off"))],
                              check=False)
        return uplink

    def second_uplink(self, node: Namespace, number: int) -> Uplink:
        """Another device on the same wire, as a node gets while it runs, with
        addresses of another net."""
        uplink = Uplink("eth1", f"198.51.100.{number}", f"2001:db8:2::{number:x}",
                        f"02:00:00:00:01:{number:02x}")
        port = f"port{number}b"
        self.namespace.run(
            ["ip", "link", "add", port, "mtu", self.mtu, "type", "veth",
             "peer", "name", uplink.device, "netns", node.path, "mtu", self.mtu,
             "address", uplink.mac])
        self.namespace.sysctl(f"net.ipv6.conf.{port}.disable_ipv6", 1)
        self.namespace.run(["ip", "link", "set", port, "master", BRIDGE, "up"])
        node.run(["ip", "address", "add", f"{uplink.ipv4}/24", "dev", uplink.device])
        node.run(["ip", "address", "add", f"{uplink.ipv6}/64", "dev", uplink.device,
                  "nodad"])
        node.run(["ip", "link", "set", uplink.device, "up"])
        return uplink

    def detach(self, number: int) -> None:
        """The uplink is gone, at both ends."""
        self.namespace.run(["ip", "link", "delete", f"port{number}"])

    def cut(self, number: int) -> None:
        self.namespace.run(["ip", "link", "set", f"port{number}", "down"])

    def join(self, number: int) -> None:
        self.namespace.run(["ip", "link", "set", f"port{number}", "up"])
