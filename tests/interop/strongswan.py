"""strongSwan of Debian 12 as a peer: charon-systemd in a namespace of its own
with its user-space ESP (kernel-libipsec), configured over vici by swanctl.

It always encapsulates ESP in UDP, has no ESN and no IPv6 outside here.
"""

import dataclasses
import pathlib
import re
import subprocess

from lab import LabError, Namespace, Process, wait_until

# kernel-libipsec first: the kernel of a test machine may have no ESP, and the
# first plugin that offers a feature wins.
PLUGINS = ("random nonce openssl aes sha1 sha2 hmac kdf mgf1 gmp gcm chapoly "
           "curve25519 pem pkcs1 pkcs8 x509 pubkey constraints "
           "kernel-libipsec kernel-netlink socket-default vici")

DAEMON = "/usr/sbin/charon-systemd"


def installed() -> bool:
    return pathlib.Path(DAEMON).exists()


@dataclasses.dataclass
class Connection:
    """One peer. Authentication is by PSK, or by raw public keys given as the
    names of files under pubkey/."""

    name: str
    remote: str
    remote_id: str
    local_ts: str
    remote_ts: str
    psk: str | None = None
    private_key: pathlib.Path | None = None
    local_public: pathlib.Path | None = None
    remote_public: pathlib.Path | None = None
    local_auth: str = "pubkey"  # with a signature scheme: rsa/pss-sha256
    ike_proposal: str = "aes256gcm16-prfsha384-x25519"
    esp_proposal: str = "aes256gcm16-x25519"
    rekey_ike: str = "4h"
    rekey_child: str = "1h"
    over_bytes: str = "1500000000"
    fragmentation: str = "yes"
    extra: str = ""


class StrongSwan:
    """One daemon. settings: lines of strongswan.conf's charon-systemd section."""

    def __init__(self, lab, namespace: Namespace, address: str, identity: str,
                 settings: str = ""):
        self.lab = lab
        self.namespace = namespace
        self.address = address
        self.identity = identity
        self.folder = lab.folder / f"strongswan-{namespace.suffix}"
        self.swanctl = self.folder / "swanctl"
        for name in ("private", "pubkey", "x509", "conf.d"):
            (self.swanctl / name).mkdir(parents=True)
        self._connections: list[Connection] = []
        (self.folder / "strongswan.conf").write_text(f"""
charon-systemd {{
  load = {PLUGINS}
  install_routes = yes
  accept_unencrypted_mainmode_messages = no
  cookie_threshold = 100000
  cookie_threshold_ip = 100000
  block_threshold = 100000
  init_limit_half_open = 0
  retransmit_timeout = 1
  retransmit_tries = 4
  {settings}
  plugins {{
    vici {{ socket = unix://{self.vici} }}
    kernel-libipsec {{ allow_peer_ts = yes }}
  }}
  journal {{ default = -1 }}
  filelog {{
    log {{
      path = {self.log_path}
      default = 1
      ike = 2
      net = 1
      flush_line = yes
    }}
  }}
}}
""")
        self.process: Process | None = None

    @property
    def vici(self) -> pathlib.Path:
        return self.folder / "vici"

    @property
    def log_path(self) -> pathlib.Path:
        return self.folder / "charon.log"

    @property
    def _environment(self) -> dict:
        return {"STRONGSWAN_CONF": str(self.folder / "strongswan.conf"),
                "SWANCTL_DIR": str(self.swanctl)}

    def log(self) -> str:
        try:
            return self.log_path.read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def start(self) -> None:
        self.process = self.namespace.start(
            f"charon-{self.namespace.suffix}", [DAEMON], env=self._environment)
        self.process.wait_for(self.vici.exists, 10, "its vici socket")

    def stop(self) -> None:
        if self.process is not None:
            self.process.stop()

    def configure(self, *connections: Connection) -> None:
        """Replaces all connections. Established SAs go on with what they have."""
        self._connections = list(connections)
        text, secrets = "", ""
        for one in connections:
            text += self._connection_text(one)
            if one.psk is not None:
                secrets += (f"  ike-{one.name} {{\n    id-1 = {one.remote_id}\n"
                            f'    id-2 = {self.identity}\n    secret = "{one.psk}"\n  }}\n')
            for source, kind in ((one.private_key, "private"),
                                 (one.local_public, "pubkey"),
                                 (one.remote_public, "pubkey")):
                if source is not None:
                    (self.swanctl / kind / source.name).write_bytes(source.read_bytes())
        (self.swanctl / "swanctl.conf").write_text(
            f"connections {{\n{text}}}\nsecrets {{\n{secrets}}}\n")
        if self.process is None:
            self.start()
        self.control("--load-all", "--clear")

    def _connection_text(self, one: Connection) -> str:
        if one.psk is not None:
            local, remote = "auth = psk", "auth = psk"
        else:
            local = f"auth = {one.local_auth}\n      pubkeys = {one.local_public.name}"
            remote = f"auth = pubkey\n      pubkeys = {one.remote_public.name}"
        return f"""
  {one.name} {{
    version = 2
    local_addrs = {self.address}
    remote_addrs = {one.remote}
    proposals = {one.ike_proposal}
    rekey_time = {one.rekey_ike}
    fragmentation = {one.fragmentation}
    mobike = no
    encap = yes
    {one.extra}
    local {{
      id = {self.identity}
      {local}
    }}
    remote {{
      id = {one.remote_id}
      {remote}
    }}
    children {{
      {one.name} {{
        local_ts = {one.local_ts}
        remote_ts = {one.remote_ts}
        esp_proposals = {one.esp_proposal}
        rekey_time = {one.rekey_child}
        start_action = none
        close_action = none
        dpd_action = none
      }}
    }}
  }}
"""

    def control(self, *words: str, check: bool = True) -> subprocess.CompletedProcess:
        """swanctl WORDS --uri ...; its error holds the daemon's last lines."""
        command = ["swanctl", *words, "--uri", f"unix://{self.vici}"]
        result = self.namespace.run(command, check=False, env=self._environment)
        if check and result.returncode != 0:
            tail = "\n".join(self.log().splitlines()[-25:])
            raise LabError(f"{' '.join(command)}: {result.returncode}\n{result.stdout}"
                           f"{result.stderr}\n{self.log_path}:\n{tail}")
        return result

    def initiate(self, name: str, *, check: bool = True, seconds: int = 20):
        return self.control("--initiate", "--child", name, "--timeout", str(seconds),
                            check=check)

    def rekey_child(self, name: str) -> None:
        self.control("--rekey", "--child", name)

    def rekey_ike(self, name: str) -> None:
        self.control("--rekey", "--ike", name)

    def terminate(self, name: str) -> None:
        self.control("--terminate", "--ike", name)

    def sas(self) -> list["IkeSa"]:
        """What swanctl --list-sas shows, parsed."""
        return parse_sas(self.control("--list-sas").stdout)

    def wait_for(self, condition, seconds: float, what: str):
        """condition(list of IkeSa); the error holds the log's end."""
        try:
            return wait_until(lambda: condition(self.sas()), seconds, f"strongSwan: {what}")
        except LabError as error:
            tail = "\n".join(self.log().splitlines()[-25:])
            raise LabError(f"{error}; SAs {self.sas()}; {self.log_path}:\n{tail}") from None

    def established(self) -> list["IkeSa"]:
        return [sa for sa in self.sas() if sa.state == "ESTABLISHED"]


@dataclasses.dataclass
class ChildSa:
    name: str
    state: str  # INSTALLED, REKEYED, DELETED, ...
    spi_in: str
    spi_out: str
    suite: str


@dataclasses.dataclass
class IkeSa:
    name: str
    state: str
    initiator_spi: str
    responder_spi: str
    initiator: bool  # strongSwan's side began
    suite: str
    children: list[ChildSa]


_IKE = re.compile(r"^(\S+): #\d+, (\w+), IKEv2, ([0-9a-f]+)_i(\*?) ([0-9a-f]+)_r")
_CHILD = re.compile(r"^  (\S+): #\d+, reqid \d+, (\w+), TUNNEL[^,]*, ESP:(\S+)")
_SPI = re.compile(r"^    (in|out) +([0-9a-f]+)")
_SUITE = re.compile(r"^  (\S+/\S+)$")


def parse_sas(text: str) -> list[IkeSa]:
    sas: list[IkeSa] = []
    for line in text.splitlines():
        if found := _IKE.match(line):
            sas.append(IkeSa(found[1], found[2], found[3], found[5], found[4] == "*",
                             "", []))
        elif not sas:
            continue
        elif found := _CHILD.match(line):
            sas[-1].children.append(ChildSa(found[1], found[2], "", "", found[3]))
        elif (found := _SPI.match(line)) and sas[-1].children:
            child = sas[-1].children[-1]
            if found[1] == "in":
                child.spi_in = found[2]
            else:
                child.spi_out = found[2]
        elif (found := _SUITE.match(line)) and not sas[-1].suite:
            sas[-1].suite = found[1]
    return sas


def generate_key(folder: pathlib.Path, name: str, kind: str) -> tuple[pathlib.Path, pathlib.Path]:
    """kind: ed25519, ecdsa256, ecdsa384, rsa3072. Files of the private key
    (PKCS #8) and of the public one (SubjectPublicKeyInfo), both PEM."""
    folder.mkdir(parents=True, exist_ok=True)
    private, public = folder / f"{name}.key", folder / f"{name}.pub"
    options = {
        "ed25519": ["ed25519"],
        "ecdsa256": ["EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
        "ecdsa384": ["EC", "-pkeyopt", "ec_paramgen_curve:P-384"],
        "rsa3072": ["RSA", "-pkeyopt", "rsa_keygen_bits:3072"],
    }[kind]
    subprocess.run(["openssl", "genpkey", "-quiet", "-algorithm", *options,
                    "-out", str(private)], check=True, capture_output=True)
    private.chmod(0o600)
    subprocess.run(["openssl", "pkey", "-in", str(private), "-pubout",
                    "-out", str(public)], check=True, capture_output=True)
    return private, public
