"""espalier-espd with static SAs between two namespaces: real packets, no agent."""

import hmac
import ipaddress
import json
import re
import socket
import struct
import time

import pytest

from lab import Capture, LabError, Namespace, Wire, wait_until
from lab.espd import (AES128_CBC_SHA512_NO_ESN, AES128_GCM_NO_ESN, AES256_CBC_SHA256,
                      AES256_GCM, ALREADY_EXISTS, CHACHA20, INBOUND, OUTBOUND, Espd, Pair)
from lab.transfer import tcp_transfer

V4 = ("10.244.1.1", "10.244.2.1")
V6 = ("fd00:244:1::1", "fd00:244:2::1")
INNER = ["10.244.0.0/16", "fd00:244::/32"]
OUTER4 = ("192.0.2.1", "192.0.2.2")
OUTER6 = ("2001:db8::1", "2001:db8::2")
SUITES = {"aes256gcm": AES256_GCM, "chacha20poly1305": CHACHA20,
          "aes256cbc-sha256": AES256_CBC_SHA256, "aes128gcm-no-esn": AES128_GCM_NO_ESN,
          "aes128cbc-sha512-no-esn": AES128_CBC_SHA512_NO_ESN}


class Nodes:
    def __init__(self, lab, *, offloads: bool = False, **options):
        self.lab = lab
        self.wire = Wire(lab, offloads=offloads)
        self.a, self.b = Namespace(lab, "a"), Namespace(lab, "b")
        self.wire.attach(self.a, 1)
        self.wire.attach(self.b, 2)
        self.ends = [Espd(node, [V4[i], V6[i]], **options)
                     for i, node in enumerate((self.a, self.b))]

    def pair(self, outer=OUTER4) -> Pair:
        return Pair(*self.ends, outer)

    def capture(self) -> Capture:
        return Capture(self.wire, self.lab.folder / "wire.pcap", INNER)


@pytest.fixture
def nodes(lab):
    return Nodes(lab)


@pytest.mark.parametrize("udp", [True, False], ids=["udp", "protocol50"])
@pytest.mark.parametrize("outer", [OUTER4, OUTER6], ids=["outer4", "outer6"])
def test_both_families_inside_and_outside(nodes, outer, udp):
    pair = nodes.pair(outer)
    assert nodes.a.ping(V4[1], wait=1) == 0, "the control: no SA, no answer"
    pair.connect(udp=udp)
    capture = nodes.capture()
    assert nodes.a.ping(V4[1], count=3) == 3
    assert nodes.a.ping(V6[1], count=3) == 3
    tcp_transfer(nodes.a, nodes.b, V4[1], megabytes=8)
    tcp_transfer(nodes.a, nodes.b, V6[1], megabytes=8)
    seen = capture.stop()
    assert seen.plaintext == 0
    assert seen.count("esp-udp" if udp else "esp") > 1000
    assert seen.count("esp" if udp else "esp-udp") == 0
    for control in pair.controls:
        drops = {name: value for name, value in control.statistics().items()
                 if name.startswith("drop_") and name not in
                 ("drop_no_policy", "drop_no_sa") and value}
        assert not drops


@pytest.mark.parametrize("udp", [True, False], ids=["udp", "protocol50"])
def test_many_packets_cross_the_kernel_in_one_call(lab, udp):
    """TUN with segmentation offload, UDP GSO and GRO: without them all works, several
    times slower. Protocol 50's socket has neither, and is the control: one system call
    sends many packets there too, but each crosses the wire by itself."""
    nodes = Nodes(lab, offloads=True)
    pair = nodes.pair()
    pair.connect(udp=udp)
    tcp_transfer(nodes.a, nodes.b, V4[1], megabytes=16)
    sender, receiver = (control.statistics() for control in pair.controls)
    assert sender["tun_super_packets"] > 100
    assert sender["esp_sent"] > 8000
    assert sender["esp_sent"] > 4 * sender["sends"]
    # A train that was sent in one piece comes in as one, on this wire.
    assert (receiver["esp_received"] > 4 * receiver["receives"]) == udp


def test_openssl_alone_carries_both_families(lab):
    nodes = Nodes(lab, options=["--openssl"])
    pair = nodes.pair()
    pair.connect()
    assert nodes.a.ping(V4[1]) == 1
    tcp_transfer(nodes.a, nodes.b, V4[1], megabytes=8)
    tcp_transfer(nodes.a, nodes.b, V6[1], megabytes=8)
    for end in nodes.ends:
        assert '"ipsec_mb":false' in end.process.log()


@pytest.mark.parametrize("name", SUITES)
def test_every_suite_is_what_an_independent_program_decrypts(nodes, name):
    """The capture is opened by scapy, with the keys that the test made."""
    suite = SUITES[name]
    pair = nodes.pair()
    pair.connect(suite, udp=False)
    capture = nodes.capture()
    assert nodes.a.ping(V4[1], count=4) == 4
    assert nodes.a.ping(V6[1], count=4) == 4
    capture.stop()
    opened = decrypt(capture.path, pair)
    echoes = [inner for inner in opened if inner in ("10.244.1.1>10.244.2.1",
                                                     "fd00:244:1::1>fd00:244:2::1")]
    assert len(echoes) >= 8
    # The control: with one bit of the key changed nothing opens.
    for outbound, _ in pair.installed:
        outbound.key = bytes([outbound.key[0] ^ 1]) + outbound.key[1:]
        if outbound.integrity:
            outbound.integrity = bytes([outbound.integrity[0] ^ 1]) + outbound.integrity[1:]
    assert decrypt(capture.path, pair) == []


def hmac_right(esp, sa) -> bool:
    octets = bytes(esp)
    size = sa.suite.integrity_size // 2
    computed = hmac.new(sa.integrity, octets[:-size] + bytes(4),
                        {12: "sha256", 14: "sha512"}[sa.suite.integrity]).digest()[:size]
    return hmac.compare_digest(computed, octets[-size:])


def decrypt(path, pair: Pair) -> list[str]:
    """"source>destination" of the inner packet of each ESP packet that opens."""
    from scapy.all import ESP, IP, IPv6, rdpcap
    from scapy.layers.ipsec import (CRYPT_ALGOS, AUTH_ALGOS, IPSecIntegrityError,
                                    SecurityAssociation)
    crypt = {20: "AES-GCM", 28: "CHACHA20-POLY1305", 12: "AES-CBC"}
    auth = {0: "NULL", 12: "SHA2-256-128", 14: "SHA2-512-256"}
    by_spi = {outbound.spi: outbound for outbound, _ in pair.installed}
    found = []
    for frame in rdpcap(str(path)):
        if ESP not in frame:
            continue
        sa = by_spi[frame[ESP].spi]
        assert crypt[sa.suite.cipher] in CRYPT_ALGOS and auth[sa.suite.integrity] in AUTH_ALGOS
        association = SecurityAssociation(
            ESP, spi=sa.spi, crypt_algo=crypt[sa.suite.cipher], crypt_key=sa.key,
            auth_algo=auth[sa.suite.integrity], auth_key=sa.integrity or None,
            esn_en=sa.suite.esn, esn=0,
            tunnel_header=IP(src=sa.source, dst=sa.destination))
        # scapy leaves the high half out of an HMAC: that ICV is checked here.
        by_hand = bool(sa.integrity) and sa.suite.esn
        if by_hand and not hmac_right(frame[ESP], sa):
            continue
        try:
            inner = association.decrypt(frame[IP], verify=not by_hand,
                                        esn_en=sa.suite.esn, esn=0)
        except (IPSecIntegrityError, ValueError, struct.error):
            continue
        if inner.src and (IP in inner or IPv6 in inner):
            found.append(f"{inner.src}>{inner.dst}")
    return found


def ping_sizes(node: Namespace, address: str, size: int) -> str:
    return node.run(["ping", "-n", "-c", "1", "-W", "2", "-s", size, "-M", "do", address],
                    check=False).stdout


def test_path_mtu_of_the_link_is_answered_towards_the_pod(lab):
    """The TUN takes more than the tunnel does: espd answers with the exact size."""
    nodes = Nodes(lab, mtu=1500)
    nodes.pair().connect()
    # IPv4, UDP, SPI and number, IV, ICV and at least 2 octets around 1438.
    inner = 1500 - 20 - 8 - 8 - 8 - 16 - 2
    assert nodes.a.ping(V4[1], size=inner - 28) == 1
    assert re.search(rf"mtu ?= ?{inner}\b", ping_sizes(nodes.a, V4[1], inner - 27))
    assert nodes.a.ping(V6[1], size=inner - 48) == 1
    tcp_transfer(nodes.a, nodes.b, V4[1], megabytes=4)
    # Without DF it is cut before ESP, and arrives.
    assert " 0% packet loss" in nodes.a.run(
        ["ping", "-n", "-c", "2", "-i", "0.2", "-s", "4000", "-M", "dont", V4[1]]).stdout


class RoutedNodes(Nodes):
    """a and b with a router between them whose far link takes 1400 octets."""

    def __init__(self, lab):
        self.lab = lab
        self.a, self.b = Namespace(lab, "a"), Namespace(lab, "b")
        self.router = Namespace(lab, "r")
        for index, (node, mtu) in enumerate(((self.a, 1500), (self.b, 1400)), 1):
            self.router.run(["ip", "link", "add", f"r{index}", "mtu", mtu, "type", "veth",
                             "peer", "name", "eth0", "netns", node.path, "mtu", mtu])
            for where, device, host in ((self.router, f"r{index}", 254), (node, "eth0", 1)):
                where.sysctl(f"net.ipv6.conf.{device}.accept_dad", 0)
                where.run(["ip", "address", "add", f"198.51.{index}.{host}/24", "dev", device])
                where.run(["ip", "address", "add", f"2001:db8:{index}::{host:x}/64",
                           "dev", device, "nodad"])
                where.run(["ip", "link", "set", device, "up"])
            for offload in ("tso", "gso", "gro", "tx-udp-segmentation"):
                for where, device in ((self.router, f"r{index}"), (node, "eth0")):
                    where.run(["ethtool", "-K", device, offload, "off"], check=False)
            node.run(["ip", "route", "add", "default", "via", f"198.51.{index}.254"])
            node.run(["ip", "-6", "route", "add", "default", "via",
                      f"2001:db8:{index}::fe"])
        self.router.sysctl("net.ipv4.ip_forward", 1)
        self.router.sysctl("net.ipv6.conf.all.forwarding", 1)
        self.ends = [Espd(node, [V4[i], V6[i]], mtu=1438)
                     for i, node in enumerate((self.a, self.b))]

    @staticmethod
    def outer(family: int):
        return (("198.51.1.1", "198.51.2.1") if family == 4
                else ("2001:db8:1::1", "2001:db8:2::1"))


@pytest.mark.parametrize("udp", [True, False], ids=["udp", "protocol50"])
@pytest.mark.parametrize("family", [4, 6])
def test_a_smaller_outer_path_is_learned_and_told(lab, family, udp):
    nodes = RoutedNodes(lab)
    pair = nodes.pair(nodes.outer(family))
    pair.connect(udp=udp)
    header = 20 if family == 4 else 40
    inner = (1400 - header - (8 if udp else 0) - 32) // 4 * 4 - 2
    assert nodes.a.ping(V4[1], size=inner - 28) == 1
    assert nodes.a.ping(V4[1], size=inner - 27, wait=1) == 0, "the first one is lost"
    wait_until(lambda: pair.controls[0].statistics()["path_mtu_lowered"] >= 1, 3,
               "the router's message")
    answer = ping_sizes(nodes.a, V4[1], inner - 27)
    assert re.search(rf"mtu ?= ?{inner}\b", answer), answer
    tcp_transfer(nodes.a, nodes.b, V4[1], megabytes=4)
    tcp_transfer(nodes.a, nodes.b, V6[1], megabytes=4)


def test_a_forged_path_mtu_changes_nothing(nodes):
    """Frag-needed from b's side about a packet that a never sent (RFC 4301 8.2.1)."""
    pair = nodes.pair()
    sa = pair.connect()[0]
    assert nodes.a.ping(V4[1]) == 1

    def forge(spi: int, sequence: int) -> None:
        esp = struct.pack("!II", spi, sequence) + bytes(16)
        udp = struct.pack("!HHHH", 4500, 4500, 8 + 1400, 0) + esp
        quoted = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 1428, 1, 0x4000, 64, 17, 0,
                             socket.inet_aton(OUTER4[0]), socket.inet_aton(OUTER4[1])) + udp
        nodes.b.run(["/usr/bin/python3", "-c", f"""
from scapy.all import IP, ICMP, Raw, send
send(IP(src={OUTER4[1]!r}, dst={OUTER4[0]!r}) / ICMP(type=3, code=4, nexthopmtu=600)
     / Raw(bytes.fromhex({quoted.hex()!r})), verbose=0)
"""])

    def counters():
        found = pair.controls[0].statistics()
        return found["path_mtu_lowered"], found["path_mtu_ignored"]

    forge(0xdeadbeef, 1)
    wait_until(lambda: counters() == (0, 1), 5, "the forged message is ignored")
    assert nodes.a.ping(V4[1], size=1300) == 1
    # The control: who knows SPI and number is believed.
    forge(sa.spi, 1)
    wait_until(lambda: counters()[0] == 1, 5, "the plausible message is believed")
    assert nodes.a.ping(V4[1], size=1300, wait=1) == 0


def test_everything_lives_on_without_an_agent(nodes):
    pair = nodes.pair()
    pair.connect()
    assert nodes.a.ping(V4[1]) == 1
    before = pair.controls[0].sas()
    for control in pair.controls:
        control.close()
    assert nodes.a.ping(V4[1], count=5) == 5

    # The next agent finds what the last one left, and may not install it again.
    control = nodes.ends[0].control()
    assert control.instance == pair.controls[0].instance
    after = control.sas()
    assert {sa.key for sa in after} == {sa.key for sa in before}
    assert control.policies() == [pair.reqid]
    outbound = next(sa for sa in after if sa.key[0] == OUTBOUND)
    assert outbound.counters.packets >= 6
    code, text = control.status("InstallSa", pair.installed[0][0].encode())
    assert code == ALREADY_EXISTS, text
    # Removed is not forgotten: the key is spent.
    control.remove(pair.installed[0][0])
    code, text = control.status("InstallSa", pair.installed[0][0].encode())
    assert code == ALREADY_EXISTS, text
    assert nodes.a.ping(V4[1], wait=1) == 0
    # The control: a new key is taken.
    pair.controls = [control, nodes.ends[1].control()]
    pair.connect()
    assert nodes.a.ping(V4[1]) == 1


def test_a_new_agent_takes_over_from_one_that_hangs(nodes):
    first = nodes.ends[0].control()
    second = nodes.ends[0].control()
    with pytest.raises((LabError, OSError)):
        first.statistics()
    assert second.statistics()["tun_reads"] >= 0


def test_other_users_may_not_connect(nodes):
    nodes.ends[0].path.parent.chmod(0o711)
    nodes.lab.folder.chmod(0o711)
    script = (f"import socket, sys; s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET);\n"
              f"s.connect({str(nodes.ends[0].path)!r}); s.send(bytes([1,1,0,0,0,0,0,1,0]));\n"
              f"sys.exit(0 if s.recv(100) else 3)")
    as_root = nodes.a.run(["/usr/bin/python3", "-c", script], check=False)
    assert as_root.returncode == 0, "the control"
    nodes.ends[0].path.chmod(0o666)  # so that SO_PEERCRED is what refuses
    as_nobody = nodes.a.run(["setpriv", "--reuid", "65534", "--clear-groups",
                             "/usr/bin/python3", "-c", script], check=False)
    assert as_nobody.returncode != 0


def test_switching_sas_under_load_loses_nothing(nodes):
    """UDP datagrams with numbers; the SA is replaced eight times meanwhile."""
    pair = nodes.pair()
    pair.connect()
    sink = nodes.b.start("sink", ["python3", "-c", f"""
import json, socket, struct
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, 33, 1 << 24)  # SO_RCVBUFFORCE
s.bind(({V4[1]!r}, 5002))
print("listening", flush=True)
seen, repeated = set(), 0
while True:
    n = struct.unpack("!I", s.recv(2000)[:4])[0]
    if n == 0xffffffff: break
    repeated += n in seen
    seen.add(n)
print(json.dumps([len(seen), repeated, max(seen) + 1]), flush=True)
"""])
    sink.wait_for_log("listening", 10)
    source = nodes.a.start("source", ["python3", "-c", f"""
import socket, struct, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
n, end = 0, time.monotonic() + 4
while time.monotonic() < end:
    for _ in range(20):
        s.sendto(struct.pack("!I", n) + bytes(1000), ({V4[1]!r}, 5002)); n += 1
    time.sleep(0.01)
time.sleep(0.5)
for _ in range(3): s.sendto(struct.pack("!I", 0xffffffff), ({V4[1]!r}, 5002))
print("sent", n, flush=True)
"""])
    for _ in range(8):
        time.sleep(0.4)
        old = pair.installed[-2:]
        pair.connect()
        time.sleep(0.05)
        for sender, (outbound, _) in enumerate(old):
            pair.controls[sender].remove(outbound)
        time.sleep(0.05)
        for sender, (_, inbound) in enumerate(old):
            pair.controls[1 - sender].remove(inbound)
    source.wait_for_log("sent", 30)
    sent = int(source.log().split("sent")[1])
    sink.wait_for(lambda: "[" in sink.log(), 10, "result")
    arrived, repeated, highest = json.loads(sink.log().splitlines()[-1])
    assert sent > 1000
    assert (arrived, repeated, highest) == (sent, 0, sent)
    # The control: with the inbound SA gone first, datagrams are lost.
    pair.controls[1].remove(pair.installed[-2][1])
    assert nodes.a.ping(V4[1], wait=1) == 0


def test_replayed_packets_are_dropped(nodes):
    """The capture of one ping is put on the wire again."""
    pair = nodes.pair()
    pair.connect()
    capture = nodes.capture()
    assert nodes.a.ping(V4[1]) == 1
    capture.stop()
    inbound = pair.installed[0][1]

    def counters():
        return next(sa.counters for sa in pair.controls[1].sas()
                    if sa.key[0] == INBOUND and sa.key[2] == inbound.spi)

    before = counters()
    nodes.a.run(["/usr/bin/python3", "-c", f"""
from scapy.all import Ether, UDP, rdpcap, sendp
for frame in rdpcap({str(capture.path)!r}):
    if UDP in frame and frame[UDP].dport == 4500 and frame["IP"].dst == {OUTER4[1]!r}:
        del frame[UDP].chksum  # the card would have finished it
        sendp(frame, iface="eth0", verbose=0)
"""])
    wait_until(lambda: counters().replayed > before.replayed, 5, "replays counted")
    assert counters().packets == before.packets


def test_acquire_and_limits_reach_the_agent(nodes):
    pair = nodes.pair()
    nodes.a.ping(V4[1], wait=1)
    assert pair.controls[0].wait_event("Acquire").take("I") == pair.reqid
    pair.connect(soft_packets=3, hard_packets=6)
    nodes.a.ping(V4[1], count=8, wait=1)
    for hard in (0, 1):
        event = pair.controls[0].wait_event("SaExpired")
        assert event.key()[0] == OUTBOUND
        assert event.take("B") == hard
    assert nodes.a.ping(V4[1], wait=1) == 0
    dead = [sa for sa in pair.controls[0].sas() if sa.expired]
    assert [sa.key[0] for sa in dead] == [OUTBOUND]
    assert dead[0].counters.packets == 6


def endpoint(address: str, port: int) -> bytes:
    parsed = ipaddress.ip_address(address)
    return bytes([parsed.version]) + parsed.packed + struct.pack("!H", port)


@pytest.mark.parametrize("outer", [OUTER4, OUTER6], ids=["outer4", "outer6"])
def test_ike_passes_through_espd_with_its_addresses(nodes, outer):
    a, b = nodes.ends[0].control(), nodes.ends[1].control()
    message = bytes(range(1, 200))
    a.send("SendIke", endpoint(outer[0], 4500) + endpoint(outer[1], 4500) + message)
    event = b.wait_event("IkeDatagram")
    local = (event.address(), event.take("H"))
    remote = (event.address(), event.take("H"))
    assert (local, remote) == ((outer[1], 4500), (outer[0], 4500))
    assert event.rest() == message


def test_keepalives_go_on_without_the_agent(nodes):
    pair = nodes.pair()
    pair.connect()
    path = endpoint(OUTER4[0], 4500) + endpoint(OUTER4[1], 4500)
    pair.controls[0].send("SendKeepalive", path)
    wait_until(lambda: pair.controls[1].statistics()["keepalives_received"] == 1, 5,
               "the agent's keepalive")
    pair.controls[0].close()
    wait_until(lambda: pair.controls[1].statistics()["keepalives_received"] >= 2, 30,
               "espd's own keepalive")


def test_it_keeps_no_capability_and_dumps_no_core(nodes):
    pid = nodes.ends[0].process.pid
    status = dict(line.split(":\t", 1) for line in
                  open(f"/proc/{pid}/status").read().splitlines() if ":\t" in line)
    for name in ("CapEff", "CapPrm", "CapInh", "CapAmb"):
        assert int(status[name], 16) == 0, name
    assert status["NoNewPrivs"] == "1"
    assert "0" in next(line for line in open(f"/proc/{pid}/limits")
                       if "core" in line).split()


def test_the_device_stays_when_espd_dies_and_nothing_leaves_in_plaintext(nodes):
    pair = nodes.pair()
    pair.connect()
    # Were the TUN's routes to go, this is the way packets would take.
    nodes.a.run(["ip", "route", "add", "10.244.0.0/16", "via", OUTER4[1]])
    capture = nodes.capture()
    assert nodes.a.ping(V4[1]) == 1
    nodes.ends[0].process.kill()
    assert nodes.a.ping(V4[1], wait=1) == 0
    assert capture.stop().plaintext == 0
    nodes.ends[0].path.unlink()
    # A new espd takes the device over, and knows nothing of the old SAs.
    nodes.ends[0].start()
    control = nodes.ends[0].control()
    assert control.instance != pair.controls[0].instance
    assert control.sas() == []
    # The control: without the device the packets do take that way.
    control.close()
    nodes.ends[0].process.kill()
    capture = Capture(nodes.wire, nodes.lab.folder / "control.pcap", INNER)
    nodes.a.run(["ip", "link", "delete", "esp0"])
    nodes.a.run(["ip", "address", "add", f"{V4[0]}/32", "dev", "eth0"])
    nodes.a.ping(V4[1], wait=1)
    assert capture.stop().plaintext > 0
