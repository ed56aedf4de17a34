"""The agent as a program: restart under traffic, reload, bad files, limits of
its rights. Two nodes with a pod each; espalier-espd goes on throughout."""

import json
import re
import signal
import subprocess
import time

import pytest

from lab import CLUSTER_CIDRS, Capture, Node, Wire, binary, wait_until

ENOUGH = 50  # answered pings, for a statement about lost ones
PSK = "a pre-shared key for these tests alone"


@pytest.fixture
def nodes(lab):
    """Two nodes with a tunnel between them and a pod on each."""
    wire = Wire(lab)
    pair = [Node(lab, wire, name, number)
            for number, name in enumerate(("node-a", "node-b"), 1)]
    for node in pair:
        node.write_config([peer for peer in pair if peer is not node], PSK)
        node.start_espd()
    for node in pair:
        node.start_agent()
    for node in pair:
        node.add_pod("pod")
    for node in pair:
        node.wait_for_tunnels(1)
    return pair


class Pinger:
    """100 pings a second from one pod to the other, until stop()."""

    def __init__(self, source, address):
        self._source = source
        self._process = source.namespace.start(
            f"ping-{address.replace(':', '-')}",
            ["ping", "-n", "-D", "-i", "0.01", address])

    def answers(self):
        return self._process.log().count("bytes from")

    def stop(self):
        """How many came back, and the numbers of those that did not. Pings that
        were still under way when ping was stopped are not counted: what never
        came back is older than something that did."""
        self._process.signal(signal.SIGINT)
        self._process.wait(10)
        answered = {int(number) for number in re.findall(
            r"bytes from .* icmp_seq=(\d+)", self._process.log())}
        assert answered, self._process.tail()
        return len(answered), sorted(set(range(1, max(answered))) - answered)


def ping_both_families(nodes):
    source, target = nodes[0].pods["pod"], nodes[1].pods["pod"]
    # The neighbour entries of the first packets are not what is measured.
    assert source.ping(target.ipv4) == 1 and source.ping(target.ipv6) == 1
    return [Pinger(source, target.ipv4), Pinger(source, target.ipv6)]


def lost(pingers):
    """The pings of all that got no answer. On a fast machine what was tested is
    over before enough went through to say anything: they go on until then."""
    for pinger in pingers:
        wait_until(lambda: pinger.answers() >= ENOUGH, 20, f"{ENOUGH} pings answered")
    counts = [pinger.stop() for pinger in pingers]
    assert all(answered >= ENOUGH for answered, _ in counts), counts
    return [missing for _, missing in counts]


def kill_agent(node):
    node.agent.signal(signal.SIGKILL)
    node.agent.wait(10)


def test_killed_agent_loses_no_packet(nodes):
    """kill -9, two seconds without an agent, a new one that takes over: with
    pings at 100/s in both families all the while."""
    for victim in nodes:
        pingers = ping_both_families(nodes)
        time.sleep(1)
        before = victim.kubectl("show", "node-b" if victim is nodes[0] else "node-a",
                                "-o", "json")
        kill_agent(victim)
        time.sleep(2)
        victim.start_agent()
        peer = "node-b" if victim is nodes[0] else "node-a"

        def renewed():
            tunnel = json.loads(victim.kubectl("show", peer, "-o", "json"))
            old = {sa["spi"] for sa in json.loads(before)["esp_sas"]}
            new = {sa["spi"] for sa in tunnel["esp_sas"]}
            return tunnel["state"] == "up" and new and not new & old
        wait_until(renewed, 30, "SAs of the new agent alone")
        time.sleep(0.5)
        assert lost(pingers) == [[], []]


def test_a_lost_packet_would_be_noticed(nodes):
    """The negative control of the test above."""
    pingers = ping_both_families(nodes)
    time.sleep(0.6)
    uplink = nodes[0].uplink.device
    nodes[0].namespace.run(["ip", "link", "set", uplink, "down"])
    time.sleep(0.3)
    nodes[0].namespace.run(["ip", "link", "set", uplink, "up"])
    time.sleep(1)
    assert all(len(missing) >= 10 for missing in lost(pingers))


def test_sigterm_ends_the_agent_and_nothing_else(nodes):
    pingers = ping_both_families(nodes)
    time.sleep(0.5)
    nodes[0].agent.signal(signal.SIGTERM)
    assert nodes[0].agent.wait(10) == 0
    assert not nodes[0].agent_socket.exists()
    time.sleep(1)
    # No Delete was sent: the peer's tunnel is as it was.
    assert [t["state"] for t in nodes[1].tunnels()] == ["up"]
    assert lost(pingers) == [[], []]


def look_absent_agent_is_said_clearly(nodes):
    kill_agent(nodes[0])
    result = nodes[0].namespace.run(
        [binary("kubectl-espalier"), "--socket", nodes[0].agent_socket, "status"],
        check=False)
    assert result.returncode == 3
    assert "espalier-agent" in result.stderr


def test_rekey_on_request_loses_nothing(nodes):
    pingers = ping_both_families(nodes)
    for flags in ([], ["--ike"], []):
        before = nodes[0].metrics()
        nodes[0].kubectl("rekey", "node-b", *flags)
        kind = "ike" if flags else "child"
        name = f'espalier_rekeys_total{{kind="{kind}"}}'
        wait_until(lambda: nodes[0].metrics()[name] > before[name], 15, name)
        time.sleep(0.5)
    assert lost(pingers) == [[], []]


def reload_with(node, change):
    """Rewrites the file as an editor does: a new one, renamed over it."""
    config = json.loads(node.config_path.read_text())
    change(config)
    draft = node.config_path.with_suffix(".new")
    draft.write_text(json.dumps(config, indent=2))
    draft.rename(node.config_path)


def reloads(node, result):
    return node.metrics()[f'espalier_config_reloads_total{{result="{result}"}}']


def test_reload_adds_and_removes_a_peer(nodes):
    node = nodes[0]

    def add(config):
        config["peers"].append({
            "name": "node-z", "addresses": ["192.0.2.77"],
            "podCIDRs": ["10.244.77.0/24"]})
    reload_with(node, add)
    wait_until(lambda: [t["peer"] for t in node.tunnels()] == ["node-b", "node-z"],
               10, "two peers")
    states = {t["peer"]: t["state"] for t in node.tunnels()}
    assert states == {"node-b": "up", "node-z": "down"}
    routes = node.namespace.run(["ip", "-4", "route", "show", "table", "4502"]).stdout
    assert "10.244.77.0/24" in routes
    pingers = ping_both_families(nodes)
    reload_with(node, lambda config: config["peers"].pop())
    wait_until(lambda: [t["peer"] for t in node.tunnels()] == ["node-b"], 10, "one peer")
    assert node.tunnels()[0]["state"] == "up"
    time.sleep(1)
    # What stayed in the file was not touched.
    assert lost(pingers) == [[], []]


def test_bad_file_keeps_the_old_one(nodes):
    node = nodes[0]
    pingers = ping_both_families(nodes)
    good = node.config_path.read_text()
    reload_with(node, lambda config: config["node"].update({"adresses": ["x"]}))
    wait_until(lambda: reloads(node, "error") == 1, 10, "a refused reload")
    assert node.metrics()["espalier_config_stale"] == 1
    status = json.loads(node.kubectl("status", "-o", "json", check=False))
    assert "did you mean 'addresses'?" in status["config_error"]
    assert "did you mean 'addresses'?" in node.agent.log()
    assert node.tunnels()[0]["state"] == "up"
    assert reloads(node, "ok") == 0
    node.config_path.write_text(good)
    wait_until(lambda: reloads(node, "ok") == 1, 10, "a good reload")
    assert node.metrics()["espalier_config_stale"] == 0
    node.agent.signal(signal.SIGHUP)
    wait_until(lambda: reloads(node, "ok") == 2, 10, "a reload by SIGHUP")
    assert lost(pingers) == [[], []]


def test_wrong_key_never_comes_up(nodes):
    """And the right one later does, without a restart."""
    node = nodes[1]
    kill_agent(nodes[0])
    kill_agent(node)
    for each in nodes:
        each.espd.signal(signal.SIGKILL)
        each.espd.wait(10)
        each.espd_socket.unlink(missing_ok=True)
        each.start_espd()
    secret = node.folder / "mesh.psk"
    secret.write_text("another pre-shared key altogether")
    for each in nodes:
        each.start_agent()
    name = "espalier_ike_authentication_failures_total"
    wait_until(lambda: nodes[0].metrics()[name] + nodes[1].metrics()[name] > 0, 20,
               "a failed authentication")
    assert [t["state"] for each in nodes for t in each.tunnels()] == ["down", "down"]
    assert nodes[0].pods["pod"].ping(nodes[1].pods["pod"].ipv4) == 0
    secret.write_text(PSK)  # noticed by itself
    node.wait_for_tunnels(1, 60)
    wait_until(lambda: nodes[0].pods["pod"].ping(nodes[1].pods["pod"].ipv4) == 1, 20,
               "a ping")


def look_second_agent_is_refused(nodes):
    result = nodes[0].namespace.run(
        [binary("espalier-agent"), "--config", nodes[0].config_path], check=False)
    assert result.returncode == 4
    assert "another agent (process" in result.stderr


def look_rights_are_few(nodes):
    pid = nodes[0].agent.pid
    fields = dict(line.split(":\t", 1) for line in
                  open(f"/proc/{pid}/status").read().splitlines() if ":\t" in line)
    assert fields["CapPrm"] == fields["CapEff"] == fields["CapBnd"]
    decoded = subprocess.run(["capsh", f"--decode={fields['CapPrm']}"], check=True,
                             capture_output=True, text=True).stdout
    held = set(decoded.strip().partition("=")[2].split(","))
    assert held == {"cap_net_admin", "cap_net_bind_service", "cap_sys_admin",
                    "cap_dac_override", "cap_sys_ptrace", "cap_net_raw"}
    assert fields["NoNewPrivs"].strip() == "1"
    limits = open(f"/proc/{pid}/limits").read()
    assert re.search(r"Max core file size\s+0\s+0", limits)


def look_outer_packets_carry_the_bypass_mark(nodes):
    """What the routing rules and the guards know ESP and IKE by."""
    node = nodes[0]
    outer = "udp dport { 500, 4500 }"
    node.namespace.run(["nft", f'''table inet marks {{
        counter sent {{ }}
        counter unmarked {{ }}
        chain leave {{
            type filter hook output priority 0;
            {outer} counter name sent
            {outer} meta mark and 0x0f000000 != 0x09000000 counter name unmarked
        }}
    }}'''])
    node.kubectl("rekey", nodes[1].name, "--ike")
    assert node.pods["pod"].ping(nodes[1].pods["pod"].ipv4, count=3) == 3
    counted = [int(re.search(r"packets (\d+)", node.namespace.run(
        ["nft", "list", "counter", "inet", "marks", name]).stdout)[1])
        for name in ("sent", "unmarked")]
    assert counted[0] > 3
    assert counted[1] == 0
    node.namespace.run(["nft", "delete", "table", "inet", "marks"])


def look_metrics_and_health(nodes):
    node = nodes[0]
    nodes[0].pods["pod"].ping(nodes[1].pods["pod"].ipv4)
    # The default of the configuration, ESN included, is what comes out.
    assert {t["suite"] for t in node.tunnels()} == {"aes256gcm16-esn"}
    samples = node.metrics()
    assert samples["espalier_tunnels_up"] == samples["espalier_tunnels_wanted"] == 1
    assert samples['espalier_esp_packets_total{peer="node-b",direction="out"}'] >= 1
    assert samples["espalier_pods"] == 1
    assert samples["espalier_datapath_connected"] == 1

    def get(path):
        script = ("import urllib.request as u, urllib.error as e\n"
                  "try: print(u.urlopen('http://127.0.0.1:9469%s', timeout=5).status)\n"
                  "except e.HTTPError as x: print(x.code, x.read().decode())" % path)
        return node.namespace.run(["/usr/bin/python3", "-c", script]).stdout
    assert get("/healthz").startswith("200")
    assert get("/readyz").startswith("200")
    node.espd.signal(signal.SIGKILL)
    wait_until(lambda: get("/readyz").startswith("503"), 10, "not ready without espd")
    assert "espalier-espd" in get("/readyz")
    assert get("/healthz").startswith("200")


def look_check_only_checks(nodes):
    node = nodes[0]
    good = node.namespace.run([binary("espalier-agent"), "--check", "--config",
                               node.config_path])
    assert "node node-a, 1 peers" in good.stdout
    bad = node.folder / "bad.yaml"
    bad.write_text("node:\n  name: a\n  adresses: []\n")
    result = node.namespace.run(
        [binary("espalier-agent"), "--check", "--config", bad], check=False)
    assert result.returncode == 3
    assert f"{bad}:3:3: unknown field 'adresses' in node: did you mean" in result.stderr


def look_no_secret_in_the_logs(nodes):
    for node in nodes:
        assert "tunnel" in node.agent.log()
        assert PSK not in node.agent.log()
        assert PSK.encode().hex() not in node.agent.log()


def test_one_running_agent(nodes):
    """What only looks, one after the other; the last ones end something."""
    for look in (look_second_agent_is_refused, look_rights_are_few,
                 look_check_only_checks, look_no_secret_in_the_logs,
                 look_outer_packets_carry_the_bypass_mark,
                 look_metrics_and_health, look_absent_agent_is_said_clearly):
        look(nodes)


def replace_key(node):
    """A new private key under the old one's name, as an administrator moves it
    there. Returns its public half."""
    draft = node.folder / "draft.key"
    node.namespace.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", draft])
    draft.chmod(0o600)
    public = node.namespace.run(["openssl", "pkey", "-in", draft, "-pubout"]).stdout
    return public, lambda: draft.rename(node.folder / "node.key")


def ike_spis(node, peer):
    return [sa["initiator_spi"] for sa in
            json.loads(node.kubectl("show", peer, "-o", "json"))["ike_sas"]]


def test_a_private_key_that_is_replaced_is_taken(lab):
    """The peer trusts both keys; then the key file changes, and the public
    file that the peer reads. Both are watched, and nothing is lost."""
    wire = Wire(lab)
    a, b = pair = [Node(lab, wire, name, number)
                   for number, name in enumerate(("node-a", "node-b"), 1)]
    for node in pair:
        node.write_config([], PSK, extra={
            "auth": {"privateKeyFile": "node.key", "generatePrivateKey": True}})
        node.start_espd()
        node.start_agent()
        node.add_pod("pod")
    public, replace = replace_key(a)
    next_public = a.folder / "next.pub"
    next_public.write_text(public)
    for node, peer in zip(pair, reversed(pair)):
        files = [str(peer.folder / "node.key.pub")]
        if node is b:
            files.append(str(next_public))
        reload_with(node, lambda config: config.update({"peers": [{
            "name": peer.name, "addresses": peer.addresses, "podCIDRs": peer.pod_cidrs,
            "auth": {"publicKeyFiles": files}}]}))
    for node in pair:
        node.wait_for_tunnels(1)
    pingers = ping_both_families(pair)
    for pinger in pingers:
        wait_until(lambda: pinger.answers() >= ENOUGH, 20, f"{ENOUGH} pings answered")
    before = ike_spis(a, "node-b")
    assert len(before) == 1
    replace()
    wait_until(lambda: len(now := ike_spis(a, "node-b")) == 1 and now != before, 30,
               "an IKE_SA made with the new key, alone")
    assert "node key replaced" in a.agent.log()
    # The old key is withdrawn: what stands rests on the new one.
    reloaded = reloads(b, "ok")
    (a.folder / "node.key.pub").write_text(public)
    wait_until(lambda: reloads(b, "ok") > reloaded, 10, "the peer's reload")
    time.sleep(1)
    assert [t["state"] for node in pair for t in node.tunnels()] == ["up", "up"]
    assert lost(pingers) == [[], []]


@pytest.mark.parametrize("udp", [True, False], ids=["udp", "protocol50"])
def test_public_keys_that_the_agents_made(lab, udp):
    """RFC 7670: each node gets the other's public half from its .pub file.
    With ESP in UDP, and with protocol 50."""
    wire = Wire(lab)
    pair = [Node(lab, wire, name, number)
            for number, name in enumerate(("node-a", "node-b"), 1)]
    for node, peer in zip(pair, reversed(pair)):
        node.write_config([peer], PSK, extra={
            "auth": {"privateKeyFile": "node.key", "generatePrivateKey": True},
            "peers": []})
        node.start_espd()
        # Without peers it makes its key and waits for a reload.
        node.start_agent()
        node.add_pod("pod")
    capture = Capture(wire, lab.folder / "wire.pcap", CLUSTER_CIDRS)
    for node, peer in zip(pair, reversed(pair)):
        reload_with(node, lambda config: config.update({"peers": [{
            "name": peer.name, "addresses": peer.addresses,
            "podCIDRs": peer.pod_cidrs, "forceEncapsulation": udp,
            "auth": {"publicKeyFiles": [str(peer.folder / "node.key.pub")]}}]}))
    for node in pair:
        node.wait_for_tunnels(1)
        tunnel = json.loads(node.kubectl("tunnels", "-o", "json"))["tunnels"][0]
        assert tunnel["encapsulated"] == udp
        # The exact overhead of AES-GCM (RFC 4106) with ESN, over IPv4.
        assert tunnel["mtu"] == (1438 if udp else 1446)
    source, target = pair[0].pods["pod"], pair[1].pods["pod"]
    assert source.ping(target.ipv4, count=3) == 3
    assert source.ping(target.ipv6, count=3) == 3
    # As large as the pod's device lets through, and not one octet more.
    mtu = json.loads(pair[0].kubectl("status", "-o", "json"))["pod_mtu"]
    assert mtu <= tunnel["mtu"]
    assert source.ping(target.ipv4, size=mtu - 28) == 1
    assert source.ping(target.ipv4, size=mtu - 27, wait=1) == 0
    packets = capture.stop()
    assert packets.plaintext == 0
    assert packets.esp >= 14
