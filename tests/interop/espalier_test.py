"""The whole of Espalier, agent and espalier-espd, against strongSwan with its
user-space ESP: real packets through the tunnel."""

import time

import pytest

from interop.probe import configuration
from interop.strongswan import Connection, StrongSwan, generate_key, installed
from interop.tshark import installed as tshark_installed
from interop.tshark import judge, spoil_keys
from lab import Capture, Namespace, Node, Process, Wire, wait_until
from lab.node import write_secret
from lab.transfer import tcp_transfer

pytestmark = pytest.mark.skipif(
    not installed(), reason="needs charon-systemd and strongswan-swanctl")

PSK = "a pre-shared key of decent length"
IKE, CHILD = "aes256gcm16-prfsha384-x25519", "aes256gcm16-x25519"
# The address that Espalier's node has inside, and strongSwan's.
INSIDE_E, INSIDE_S = "10.244.1.1", "10.244.2.9"


class Site:
    """Espalier is 192.0.2.1, e.test; strongSwan 192.0.2.2, s.test."""

    def __init__(self, lab):
        self.lab = lab
        self.wire = Wire(lab)
        self.node = Node(lab, self.wire, "e", 1)
        self.peer = Namespace(lab, "s", own_run=True)
        self.wire.attach(self.peer, 2)
        self.peer.run(["ip", "address", "add", f"{INSIDE_S}/32", "dev", "lo"])
        self.capture = Capture(self.wire, lab.folder / "wire.pcap", ["10.244.0.0/16"])

    def start(self, *, initiator="espalier", ike=IKE, child=CHILD, key=None,
              extra=None, key_log=False, **connection):
        auth = {"psk": PSK}
        write_secret(self.node.folder / "psk", PSK)
        if key is not None:
            own = generate_key(self.lab.folder / "keys", "e", key)
            peer = generate_key(self.lab.folder / "keys", "s", key)
            write_secret(self.node.folder / "own.key", own[0].read_text())
            write_secret(self.node.folder / "peer.pub", peer[1].read_text())
            auth = {"private_key": peer[0], "local_public": peer[1],
                    "remote_public": own[1]}
        self.s = StrongSwan(self.lab, self.peer, "192.0.2.2", "s.test")
        self.s.configure(Connection(
            name="t", remote="192.0.2.1", remote_id="e.test",
            local_ts="10.244.2.0/24", remote_ts="10.244.1.0/24",
            ike_proposal=ike, esp_proposal=child, **auth, **connection))
        self.node.write_config([], PSK, key_log=key_log, extra=configuration(
            1, 2, ike=[ike], child=[f"{child}-esn"], psk=key is None,
            initiate="always" if initiator == "espalier" else "never", extra=extra))
        self.node.start_espd()
        self.node.start_agent()
        if initiator == "strongswan":
            self.s.initiate("t")
        self.wait_up()

    def wait_up(self) -> None:
        self.s.wait_for(
            lambda sas: any(sa.state == "ESTABLISHED" and any(
                child.state == "INSTALLED" for child in sa.children) for sa in sas),
            20, "a tunnel")
        wait_until(lambda: self.ping(1) == 1, 10, "the first ping through the tunnel")

    def start_ping(self, count: int, interval: float = 0.02) -> Process:
        return self.node.namespace.start(
            f"ping-{time.monotonic_ns()}",
            ["ping", "-n", "-q", "-c", count, "-i", interval, "-W", 4,
             "-I", INSIDE_E, INSIDE_S])

    @staticmethod
    def finish_ping(ping: Process) -> int:
        """How many answers came."""
        ping.wait(60)
        return int(ping.log().split(" received")[0].split()[-1])

    def ping(self, count: int) -> int:
        return self.finish_ping(self.start_ping(count))

    def spis(self) -> set[str]:
        return {child.spi_in for sa in self.s.sas() for child in sa.children
                if child.state == "INSTALLED"}

    def no_plaintext(self) -> None:
        packets = self.capture.stop()
        assert packets.esp > 0 and packets.plaintext == 0


@pytest.fixture
def site(lab):
    return Site(lab)


both = pytest.mark.parametrize("initiator", ["espalier", "strongswan"])


@both
@pytest.mark.parametrize("key", [None, "ed25519", "ecdsa256"],
                         ids=["psk", "ed25519", "ecdsa256"])
def test_tunnel_carries_pings_and_a_transfer(site, initiator, key):
    site.start(initiator=initiator, key=key)
    assert site.ping(20) == 20
    tcp_transfer(site.node.namespace, site.peer, INSIDE_S, megabytes=4)
    tcp_transfer(site.peer, site.node.namespace, INSIDE_E, megabytes=4)
    site.no_plaintext()


@pytest.mark.parametrize("ike,child", [
    ("aes128gcm16-prfsha256-ecp256", "aes128gcm16-ecp256"),
    ("chacha20poly1305-prfsha256-x25519", "chacha20poly1305-x25519"),
    ("aes128-sha256-prfsha256-modp2048", "aes128-sha256-modp2048"),
    ("aes256-sha512-prfsha512-ecp384", "aes256-sha512-ecp384"),
])
def test_suites_carry_data(site, ike, child):
    site.start(ike=ike, child=child)
    assert site.ping(20) == 20
    tcp_transfer(site.node.namespace, site.peer, INSIDE_S, megabytes=2)
    site.no_plaintext()


def rekeying(site, how, times: int) -> None:
    """Pings go on while how() has the CHILD_SA replaced `times` times."""
    ping = site.start_ping(500)
    seen = [site.spis()]
    for _ in range(times):
        how()
        wait_until(lambda: not site.spis() & seen[-1], 15, "another CHILD_SA")
        seen.append(site.spis())
        time.sleep(0.5)
    assert site.finish_ping(ping) == 500
    site.no_plaintext()


def test_child_rekey_by_strongswan_loses_nothing(site):
    site.start()
    rekeying(site, lambda: site.s.rekey_child("t"), 3)


def test_child_rekey_by_espalier_loses_nothing(site):
    site.start(extra={"lifetimes": {"child": {"rekeyAfter": "3s", "expireAfter": "20m"}}})
    rekeying(site, lambda: None, 2)


@pytest.mark.parametrize("side", ["espalier", "strongswan"])
def test_ike_rekey_loses_nothing(site, side):
    extra = {"lifetimes": {"ike": {"rekeyAfter": "3s", "expireAfter": "20m"}}}
    site.start(extra=extra if side == "espalier" else None)
    before, children = site.s.established()[0].initiator_spi, site.spis()
    ping = site.start_ping(300)
    if side == "strongswan":
        site.s.rekey_ike("t")
    site.s.wait_for(
        lambda sas: len(sas) == 1 and sas[0].state == "ESTABLISHED" and
        sas[0].initiator_spi != before, 15, "another IKE_SA")
    assert site.spis() == children
    assert site.finish_ping(ping) == 300


def test_deleted_tunnel_comes_back(site):
    site.start()
    before = site.spis()
    site.s.terminate("t")
    site.s.wait_for(lambda sas: sas and sas[0].state == "ESTABLISHED", 20,
                    "an IKE_SA that Espalier began anew")
    site.wait_up()
    assert not site.spis() & before


def test_an_agent_that_crashes_is_followed_by_another(site):
    site.start()
    ping = site.start_ping(300)
    before = site.spis()
    time.sleep(1)
    site.node.agent.kill()
    time.sleep(1)
    site.node.start_agent()
    wait_until(lambda: site.spis() - before, 20, "a CHILD_SA of the second agent")
    # strongSwan removes the old SAs at INITIAL_CONTACT, before it can know that
    # the new ones have arrived here: what is under way then is lost.
    assert site.finish_ping(ping) >= 290
    assert site.ping(10) == 10


@pytest.mark.skipif(not tshark_installed(), reason="needs tshark")
@pytest.mark.parametrize("ike,child", [
    (IKE, CHILD), ("aes256-sha256-prfsha256-modp2048", "aes256-sha256-modp2048")])
def test_tshark_finds_every_icv_right(lab, site, ike, child):
    site.start(ike=ike, child=child, key_log=True)
    assert site.ping(20) == 20
    site.s.rekey_child("t")
    assert site.ping(20) == 20
    site.s.rekey_ike("t")
    site.s.rekey_child("t")
    assert site.ping(20) == 20
    site.s.terminate("t")
    time.sleep(1)
    site.capture.stop()
    right = judge(site.capture.path, site.node.key_log, lab.folder / "right")
    assert (right.ike_bad, right.ike_unread, right.esp_bad, right.esp_unread) == (0, 0, 0, 0)
    assert right.ike_good >= 2 + 4 and right.inner >= 2 * 60
    # Does it find a wrong one?
    spoil_keys(site.node.key_log, lab.folder / "spoiled")
    wrong = judge(site.capture.path, lab.folder / "spoiled", lab.folder / "wrong")
    assert wrong.ike_good == 0 and wrong.esp_good == 0
    assert wrong.ike_bad == right.ike_good
    # A packet whose padding comes out as nonsense is not judged at all.
    assert wrong.esp_bad + wrong.esp_unread == right.esp_good
    assert wrong.esp_bad > 0.8 * right.esp_good
