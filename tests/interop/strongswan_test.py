"""The peer's half alone: strongSwan to strongSwan, so that a failure of the
other tests is not the harness's."""

import pytest

from lab import Capture, Namespace, Wire
from interop.strongswan import Connection, StrongSwan, generate_key, installed

pytestmark = pytest.mark.skipif(
    not installed(), reason="needs charon-systemd and strongswan-swanctl")


@pytest.fixture
def pair(lab):
    wire = Wire(lab)
    daemons = []
    for number, name in ((1, "a"), (2, "b")):
        namespace = Namespace(lab, name, own_run=True)
        wire.attach(namespace, number)
        namespace.run(["ip", "address", "add", f"10.244.{number}.9/32", "dev", "lo"])
        daemons.append(StrongSwan(lab, namespace, f"192.0.2.{number}", f"{name}.test"))
    return wire, daemons


def connection(name: str, number: int, **auth) -> Connection:
    """As daemon `number` of the pair sees the other."""
    other = 3 - number
    return Connection(
        name=name, remote=f"192.0.2.{other}", remote_id="ba"[number - 1] + ".test",
        local_ts=f"10.244.{number}.0/24", remote_ts=f"10.244.{other}.0/24", **auth)


def test_psk_tunnel_carries_pings(lab, pair):
    wire, (a, b) = pair
    capture = Capture(wire, lab.folder / "wire.pcap", ["10.244.0.0/16"])
    a.configure(connection("t", 1, psk="correct horse battery staple"))
    b.configure(connection("t", 2, psk="correct horse battery staple"))
    a.initiate("t")
    (sa,) = a.sas()
    assert sa.state == "ESTABLISHED" and sa.initiator
    assert sa.children[0].state == "INSTALLED"
    assert a.namespace.run(
        ["ping", "-n", "-c3", "-i0.2", "-I", "10.244.1.9", "10.244.2.9"]).returncode == 0
    packets = capture.stop()
    assert packets.esp >= 6 and packets.plaintext == 0


def test_wrong_psk_is_refused(pair):
    _, (a, b) = pair
    a.configure(connection("t", 1, psk="one secret"))
    b.configure(connection("t", 2, psk="another secret"))
    assert a.initiate("t", check=False).returncode != 0
    assert not a.established() and not b.established()


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa256", "rsa3072"])
def test_raw_public_keys(lab, pair, kind):
    _, (a, b) = pair
    keys = [generate_key(lab.folder / "keys", f"{name}-{kind}", kind) for name in "ab"]
    for number, daemon in ((1, a), (2, b)):
        private, public = keys[number - 1]
        daemon.configure(connection("t", number, private_key=private, local_public=public,
                                    remote_public=keys[2 - number][1]))
    a.initiate("t")
    assert a.established() and b.established()
