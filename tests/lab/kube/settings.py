"""What all parts of a cluster must agree on."""

import dataclasses
import pathlib

from lab.kube.pki import Authority

# --node-cidr-mask-size-ipv6=64 allows at most 16 bits more than the cluster's.
POD_CIDRS = ("10.244.0.0/16", "fd00:244::/48")
SERVICE_CIDRS = ("10.96.0.0/16", "fd00:96::/112")
API_SERVICE = "10.96.0.1"
CLUSTER_DNS = ("10.96.0.10", "fd00:96::a")
PROXY_MODES = ("nftables", "iptables", "none")


@dataclasses.dataclass
class Settings:
    """kubernetes: the one program; runtime_programs: the folder of containerd,
    its shim and ctr."""
    kubernetes: pathlib.Path
    runtime_programs: pathlib.Path
    authority: Authority
    proxy_mode: str
