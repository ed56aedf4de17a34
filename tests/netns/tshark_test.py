"""tshark, which shares no code with Espalier, reads a capture of the mesh with
the key log: it decrypts IKE and ESP, and finds every ICV right."""

import base64
import os
import re
import shutil
import subprocess

import pytest

from lab.mesh import Mesh
from lab.transfer import tcp_transfer

# tshark 4.0 knows no ESN: it would verify the ICV without the high half.
PROPOSALS = {"proposals": {"ike": ["aes256gcm16-prfsha384-x25519"],
                           "child": ["aes256gcm16-x25519-noesn"]}}
GOOD, BAD = "esp.icv_good == 1", "esp.icv_bad == 1"


def tshark(pcap, config, display_filter: str) -> int:
    """How many packets match, with the keys of that folder."""
    result = subprocess.run(
        ["tshark", "-n", "-r", pcap, "-Y", display_filter, "-T", "fields",
         "-e", "frame.number", "-o", "esp.enable_encryption_decode:TRUE",
         "-o", "esp.enable_authentication_check:TRUE"],
        capture_output=True, text=True,
        env={**os.environ, "WIRESHARK_CONFIG_DIR": str(config), "HOME": str(config)})
    assert result.returncode == 0, result.stderr
    return len(result.stdout.split())


@pytest.fixture
def captured(lab):
    mesh = Mesh(lab, extra=PROPOSALS, key_log=True).up()
    mesh.assert_reachable()
    a, b = mesh.pods
    tcp_transfer(a.namespace, b.namespace, b.ipv4, megabytes=1)
    mesh.nodes[0].kubectl("rekey", mesh.nodes[1].name)
    mesh.assert_reachable()
    return mesh, mesh.finish()


def test_every_icv_is_right(lab, captured):
    mesh, packets = captured
    keys, pcap = mesh.nodes[0].key_log, mesh.capture.path
    assert tshark(pcap, keys, GOOD) == packets.esp > 100
    assert tshark(pcap, keys, BAD) == 0
    # The inner packets are those that the pods exchanged.
    assert tshark(pcap, keys, "esp && icmp.type == 0") >= 4
    assert tshark(pcap, keys, "esp && icmpv6.type == 129") >= 4
    assert tshark(pcap, keys, "esp && tcp") > 100
    # IKE_AUTH too: the identities are inside its encrypted payload.
    assert tshark(pcap, keys, 'isakmp.id.data.fqdn == "node-a"') >= 1

    # The negative control: other keys are told apart, and without keys nothing
    # is read.
    wrong = lab.folder / "wrong-keys"
    shutil.copytree(keys, wrong)
    table = wrong / "esp_sa"
    # The key is the sixth field: its last octet, of the salt, is changed.
    table.write_text(re.sub(r'(","0x[0-9a-f]{70})(..)"',
                            lambda m: f'{m[1]}{int(m[2], 16) ^ 1:02x}"',
                            table.read_text()))
    assert tshark(pcap, wrong, GOOD) == 0
    # Not all: garbage may end tshark's reading before it comes to the ICV.
    assert tshark(pcap, wrong, BAD) > packets.esp * 0.9
    assert tshark(pcap, lab.folder / "no-keys", "esp && (icmp || tcp)") == 0


def test_no_key_is_in_a_log(captured):
    """What is in the key log is nowhere else, though agents log at debug level."""
    mesh, _ = captured
    tables = "".join((node.key_log / name).read_text() for node in mesh.nodes
                     for name in ("esp_sa", "ikev2_decryption_table"))
    words = {word.lower().removeprefix("0x") for word in re.findall(r"[0-9A-Fa-fx]{8,}", tables)}
    # With the salt, and without it; an SPI has 8 (ESP) or 16 (IKE) digits.
    keys = {word for word in words if len(word) > 32}
    keys |= {key[:-8] for key in keys}
    spis = {word for word in words if len(word) <= 16}
    logs = "".join(path.read_text().lower() for node in mesh.nodes
                   for path in (node.folder / "agent.log", node.folder / "espd.log"))
    assert len(keys) >= 12
    assert all('"logLevel": "debug"' in node.config_path.read_text() for node in mesh.nodes)
    for key in keys:
        assert key not in logs
        octets = bytes.fromhex(key)
        assert base64.b64encode(octets).decode().rstrip("=").lower() not in logs
    # The control: what may be told is found this way.
    assert any(spi in logs for spi in spis)


def test_no_key_log_unless_asked_for(lab):
    Mesh(lab).up()
    assert not list(lab.folder.rglob("esp_sa"))
    assert not list(lab.folder.rglob("ikev2_decryption_table"))
