"""Espalier's protocol core against strongSwan: every exchange, from either
side, without a datapath (ike_probe)."""

import pytest

from interop.ike_packets import half_open, initial_request
from interop.probe import Probe, configuration
from interop.strongswan import Connection, StrongSwan, generate_key, installed
from lab import Capture, Namespace, Wire

pytestmark = pytest.mark.skipif(
    not installed(), reason="needs charon-systemd and strongswan-swanctl")

PSK = "a pre-shared key of decent length"
IKE, CHILD = "aes256gcm16-prfsha384-x25519", "aes256gcm16-x25519"


class Pair:
    """Espalier is 192.0.2.1, e.test; strongSwan 192.0.2.2, s.test."""

    def __init__(self, lab):
        self.lab = lab
        self.wire = Wire(lab)
        self.espalier = Namespace(lab, "e")
        self.strongswan = Namespace(lab, "s", own_run=True)
        for number, namespace in ((1, self.espalier), (2, self.strongswan)):
            self.wire.attach(namespace, number)
            namespace.run(["ip", "address", "add", f"10.244.{number}.9/32", "dev", "lo"])
        self.keys = {}

    def start(self, *, ike=IKE, child=CHILD, espalier_ike=None, espalier_child=None,
              psk=PSK, espalier_psk=PSK, key=None, peer_key=None, initiate="always",
              settings="", extra=None, **connection):
        """key, peer_key: kinds of Espalier's and strongSwan's raw keys."""
        auth, files = {"psk": psk}, {"psk": espalier_psk}
        if key is not None:
            own = generate_key(self.lab.folder / "keys", "e", key)
            peer = generate_key(self.lab.folder / "keys", "s", peer_key or key)
            auth = {"private_key": peer[0], "local_public": peer[1],
                    "remote_public": own[1]}
            files = {"own.key": own[0].read_text(), "peer.pub": peer[1].read_text()}
        self.s = StrongSwan(self.lab, self.strongswan, "192.0.2.2", "s.test", settings)
        self.s.configure(Connection(
            name="t", remote="192.0.2.1", remote_id="e.test",
            local_ts="10.244.2.0/24", remote_ts="10.244.1.0/24",
            ike_proposal=ike, esp_proposal=child, **auth, **connection))
        self.e = Probe(self.lab, self.espalier, configuration(
            1, 2, ike=espalier_ike or [ike], child=espalier_child or [f"{child}-esn"],
            psk=key is None, initiate=initiate, extra=extra), files)

    def establish(self, initiator: str) -> None:
        if initiator == "espalier":
            self.e.command("establish 1")
        else:
            self.s.initiate("t")
        self.e.wait_event("child-up")
        self.agree()

    def agree(self) -> None:
        """Both show one IKE_SA with one CHILD_SA, under the same SPIs."""
        def same(sas):
            mine = self.e.established()
            sas = [sa for sa in sas if sa.state == "ESTABLISHED"]
            if len(sas) != 1 or len(mine) != 1:
                return False
            theirs = {(c.spi_in, c.spi_out) for c in sas[0].children
                      if c.state == "INSTALLED"}
            ours = {(c["out"], c["in"]) for c in mine[0]["children"]
                    if c["state"] == "installed"}
            return (len(theirs) == 1 and theirs == ours and
                    sas[0].initiator_spi == mine[0]["initiatorSpi"] and
                    sas[0].responder_spi == mine[0]["responderSpi"])
        self.s.wait_for(same, 15, f"the same SAs as Espalier's {self.e.established()}")


@pytest.fixture
def pair(lab):
    return Pair(lab)


both = pytest.mark.parametrize("initiator", ["espalier", "strongswan"])

SUITES = [
    ("aes128gcm16-prfsha256-x25519", "aes128gcm16-x25519"),
    ("aes256gcm16-prfsha384-ecp384", "aes256gcm16-ecp384"),
    ("chacha20poly1305-prfsha256-ecp256", "chacha20poly1305-ecp256"),
    ("aes256gcm16-prfsha512-modp3072", "aes256gcm16-modp3072"),
    ("aes128-sha256-prfsha256-modp2048", "aes128-sha256-modp2048"),
    ("aes256-sha384-prfsha384-modp4096", "aes256-sha384-modp4096"),
    ("aes256-sha512-prfsha512-x25519", "aes256-sha512"),
]


@both
@pytest.mark.parametrize("ike,child", SUITES, ids=[ike for ike, _ in SUITES])
def test_suites(pair, initiator, ike, child):
    pair.start(ike=ike, child=child)
    pair.establish(initiator)
    # The group of the CHILD_SA's own exchange comes with its rekey.
    pair.e.command("rekey-child 1")
    pair.e.wait_event("child-rekeyed")
    pair.agree()


@both
@pytest.mark.parametrize("key,peer_key", [
    ("ed25519", "ed25519"), ("ecdsa256", "ecdsa256"), ("ecdsa384", "ecdsa384"),
    ("ed25519", "rsa3072")])
def test_raw_public_keys(pair, initiator, key, peer_key):
    pair.start(key=key, peer_key=peer_key, settings="rsa_pss = yes")
    pair.establish(initiator)


def test_another_public_key_is_refused(pair, lab):
    pair.start(key="ed25519")
    stranger = generate_key(lab.folder / "keys", "stranger", "ed25519")
    for path in (pair.s.swanctl / "private").iterdir():
        path.write_bytes(stranger[0].read_bytes())
    for path in (pair.s.swanctl / "pubkey").glob("s.pub"):
        path.write_bytes(stranger[1].read_bytes())
    pair.s.control("--load-all", "--clear")
    assert pair.s.initiate("t", check=False).returncode != 0
    assert pair.e.status()["authenticationFailures"] >= 1
    assert not pair.e.established() and not pair.s.established()


@both
def test_wrong_psk_is_refused(pair, initiator):
    pair.start(espalier_psk="not the one that the other has")
    if initiator == "espalier":
        pair.e.command("establish 1")
        pair.e.wait_event("authentication-failed")
    else:
        assert pair.s.initiate("t", check=False).returncode != 0
        assert pair.e.status()["authenticationFailures"] >= 1
    assert not pair.e.established() and not pair.s.established()


def test_no_common_proposal_as_initiator(pair):
    pair.start(espalier_ike=["aes128gcm16-prfsha256-ecp256"])
    pair.e.command("establish 1")
    pair.e.wait_event("no-proposal-chosen")
    assert not pair.s.established()


def test_no_common_proposal_as_responder(pair):
    pair.start(espalier_ike=["aes128gcm16-prfsha256-ecp256"])
    result = pair.s.initiate("t", check=False)
    assert result.returncode != 0 and "NO_PROPOSAL" in result.stdout + pair.s.log()
    assert not pair.e.established()


@both
def test_another_group_is_asked_for(pair, initiator):
    """INVALID_KE_PAYLOAD: the first guess of the initiator is not the group
    that the responder takes."""
    if initiator == "espalier":
        pair.start(ike="aes256gcm16-prfsha384-ecp256",
                   espalier_ike=["aes256gcm16-prfsha384-x25519-ecp256"])
    else:
        pair.start(ike="aes256gcm16-prfsha384-x25519-ecp256",
                   espalier_ike=["aes256gcm16-prfsha384-ecp256"])
    pair.establish(initiator)
    assert "INVAL_KE" in pair.s.log() or "requested ECP_256" in pair.s.log()


@both
@pytest.mark.parametrize("side", ["espalier", "strongswan"])
def test_child_rekey(pair, initiator, side):
    pair.start()
    pair.establish(initiator)
    for _ in range(2):
        before = pair.e.established()[0]["children"]
        if side == "espalier":
            pair.e.command("rekey-child 1")
        else:
            pair.s.rekey_child("t")
        pair.e.wait_status(
            lambda now: [c["in"] for c in now["ikeSas"][0]["children"]
                         if c["state"] == "installed"] not in ([], [before[0]["in"]]),
            10, "another CHILD_SA")
        pair.agree()


@both
@pytest.mark.parametrize("side", ["espalier", "strongswan"])
def test_ike_rekey(pair, initiator, side):
    pair.start()
    pair.establish(initiator)
    for _ in range(2):
        before = pair.e.established()[0]
        if side == "espalier":
            pair.e.command("rekey-ike 1")
        else:
            pair.s.rekey_ike("t")
        pair.e.wait_status(
            lambda now: [sa["initiatorSpi"] for sa in now["ikeSas"]
                         if sa["state"] == "established"] not in
            ([], [before["initiatorSpi"]]),
            10, "another IKE_SA")
        pair.agree()
    # The CHILD_SA went along, and the new IKE_SA works.
    pair.e.command("rekey-child 1")
    pair.e.wait_event("child-rekeyed")
    pair.agree()


@both
@pytest.mark.parametrize("side", ["espalier", "strongswan"])
def test_delete(pair, initiator, side):
    # Otherwise Espalier would begin anew at once.
    pair.start(initiate="never" if initiator == "strongswan" else "always")
    pair.establish(initiator)
    if side == "espalier":
        pair.e.command("delete 1")
    else:
        pair.e.command("stop 1")
        pair.s.terminate("t")
    pair.e.wait_status(lambda now: not now["ikeSas"], 10, "no IKE_SA at Espalier")
    pair.s.wait_for(lambda sas: not sas, 10, "no IKE_SA")
    # The inbound SA goes last: packets may be under way.
    pair.e.wait_event("remove", 2)


def test_child_delete_by_strongswan(pair):
    pair.start(initiate="never")
    pair.establish("strongswan")
    pair.s.control("--terminate", "--child", "t")
    pair.e.wait_status(lambda now: now["ikeSas"] and not now["ikeSas"][0]["children"],
                       10, "an IKE_SA without a CHILD_SA")
    pair.s.initiate("t")
    pair.e.wait_event("child-up", 2)
    pair.agree()


@both
def test_fragmentation(pair, initiator):
    """RFC 7383, both directions: IKE_AUTH with an RSA signature each way."""
    pair.start(key="rsa3072", settings="rsa_pss = yes\n  fragment_size = 576",
               extra={"ike": {"fragmentSize": 576}})
    pair.establish(initiator)
    log = pair.s.log()
    assert "splitting IKE message" in log
    assert "reassembled fragmented IKE message" in log


def test_cookie_asked_by_strongswan(pair, lab):
    capture = Capture(pair.wire, lab.folder / "wire.pcap", [])
    pair.start(settings="cookie_threshold_ip = 1")
    pair.establish("espalier")
    request = initial_request(capture, "192.0.2.1")
    pair.e.command("delete 1")
    pair.s.wait_for(lambda sas: not sas, 10, "no IKE_SA")
    half_open(pair.espalier, request, "192.0.2.2", 3)
    pair.e.command("establish 1")
    pair.e.wait_event("child-up", 2)
    pair.agree()
    assert "parsed IKE_SA_INIT request 0 [ N(COOKIE)" in pair.s.log()


def test_cookie_asked_by_espalier(pair, lab):
    capture = Capture(pair.wire, lab.folder / "wire.pcap", [])
    pair.start(initiate="never", extra={"ike": {"cookieThreshold": 2}})
    pair.establish("strongswan")
    assert pair.e.status()["cookiesSent"] == 0
    request = initial_request(capture, "192.0.2.2")
    pair.s.terminate("t")
    pair.e.wait_status(lambda now: not now["ikeSas"], 10, "no IKE_SA at Espalier")
    half_open(pair.strongswan, request, "192.0.2.1", 3)
    pair.s.initiate("t")
    pair.e.wait_event("child-up", 2)
    assert pair.e.status()["cookiesSent"] >= 1
    assert "generating IKE_SA_INIT request 0 [ N(COOKIE)" in pair.s.log()
