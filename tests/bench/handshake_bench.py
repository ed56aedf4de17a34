"""CPU and memory of one IKE_SA with its CHILD_SA: Espalier's cores against two
strongSwan daemons, PSK, X25519, aes256gcm16-prfsha384, in one run.

    handshake_bench.py [COUNT]      run by ./dev bench; needs root

Both columns are user and system time. strongSwan's has what Espalier's cores
do not: sockets, its user-space SAs (a daemon does not negotiate without a
place to put them) and one short vici command a handshake.
"""

import json
import os
import pathlib
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from bench.vici import Vici  # noqa: E402
from interop.strongswan import StrongSwan  # noqa: E402
from lab import Lab, Namespace, Wire, binary, wait_until  # noqa: E402

COUNT = 400
CORE_COUNT = 4000
WARM_UP = 20
AT_ONCE = 20
MUST_CPU, TOWARD_CPU = 1 / 3, 1 / 7
MUST_BYTES, TOWARD_BYTES = 8192, 4096


def cpu_seconds(pid: int) -> float:
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident(pid: int) -> int:
    pages = int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE")


def initiator_text(count: int) -> str:
    """One connection a handshake: strongSwan puts a second CHILD_SA of one
    connection into the IKE_SA that is there."""
    text = ""
    for n in range(count):
        text += f"""
  c{n} {{
    version = 2
    local_addrs = 192.0.2.1
    remote_addrs = 192.0.2.2
    proposals = aes256gcm16-prfsha384-x25519
    unique = never
    mobike = no
    local {{
      auth = psk
      id = c{n}.test
    }}
    remote {{
      auth = psk
      id = b.test
    }}
    children {{
      c{n} {{
        local_ts = 10.1.{n >> 8}.{n & 255}/32
        remote_ts = 10.2.{n >> 8}.{n & 255}/32
        esp_proposals = aes256gcm16
      }}
    }}
  }}
"""
    return text


RESPONDER_TEXT = """
  all {
    version = 2
    local_addrs = 192.0.2.2
    remote_addrs = %any
    proposals = aes256gcm16-prfsha384-x25519
    unique = never
    mobike = no
    local {
      auth = psk
      id = b.test
    }
    remote {
      auth = psk
    }
    children {
      all {
        local_ts = 10.2.0.0/16
        remote_ts = 10.1.0.0/16
        esp_proposals = aes256gcm16
      }
    }
  }
"""


class Daemon(StrongSwan):
    def load(self, connections: str) -> None:
        (self.swanctl / "swanctl.conf").write_text(
            f"connections {{\n{connections}}}\n"
            'secrets {\n  ike-all {\n    secret = "the same for all of them"\n  }\n}\n')
        self.start()
        self.control("--load-all")


def established(vici: Vici) -> int:
    counts = vici.command("stats")["ikesas"]
    return int(counts["total"]) - int(counts["half-open"])


def strongswan(lab: Lab, count: int) -> dict:
    wire = Wire(lab)
    daemons = []
    for number, name in ((1, "a"), (2, "b")):
        namespace = Namespace(lab, name, own_run=True)
        wire.attach(namespace, number)
        daemon = Daemon(lab, namespace, f"192.0.2.{number}", f"{name}.test",
                        "install_routes = no\n  threads = 16\n")
        # Logging is not what is measured.
        path = daemon.folder / "strongswan.conf"
        path.write_text(path.read_text().replace("install_routes = yes", "")
                        .replace("default = 1", "default = 0").replace("ike = 2", ""))
        daemons.append(daemon)
    a, b = daemons
    total = count + WARM_UP
    b.load(RESPONDER_TEXT)
    a.load(initiator_text(total))
    pids = [daemon.process.pid for daemon in daemons]
    vici = Vici(a.vici)

    def establish(first: int, last: int) -> None:
        for begin in range(first, last, AT_ONCE):
            end = min(begin + AT_ONCE, last)
            for n in range(begin, end):
                answer = vici.command("initiate", child=f"c{n}", ike=f"c{n}", timeout=-1)
                if answer.get("success") != "yes":
                    raise RuntimeError(f"initiate c{n}: {answer}")
            wait_until(lambda: established(vici) >= end, 30, f"{end} IKE_SAs")

    establish(0, WARM_UP)
    cpu = [cpu_seconds(pid) for pid in pids]
    memory = [resident(pid) for pid in pids]
    establish(WARM_UP, total)
    each = [(cpu_seconds(pid) - before) / count for pid, before in zip(pids, cpu)]
    grown = [(resident(pid) - before) / count for pid, before in zip(pids, memory)]
    at_responder = Vici(b.vici)
    if established(at_responder) != total:
        raise RuntimeError(f"{established(at_responder)} IKE_SAs at the responder, "
                           f"not {total}")
    for connection in (vici, at_responder):
        connection.close()
    return {"initiator": each[0], "responder": each[1], "cpu_seconds": sum(each),
            "bytes": sum(grown) / 2}


def espalier() -> dict:
    result = subprocess.run([binary("handshake_cores"), str(CORE_COUNT)], check=True,
                            capture_output=True, text=True)
    return json.loads(result.stdout)


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else COUNT
    # In turn, so that a change of the machine's pace meets both.
    ours = [espalier()]
    with Lab("handshake") as lab:
        theirs = strongswan(lab, count)
    ours.append(espalier())
    cpu = sum(one["cpu_seconds"] for one in ours) / len(ours)
    size = max(one["bytes"] for one in ours)
    print(f"{'one IKE_SA with its CHILD_SA':34} {'Espalier':>10} {'strongSwan':>11} "
          f"{'ratio':>7} {'must':>7} {'toward':>7}")
    print(f"{'CPU, both sides, us':34} {cpu * 1e6:10.0f} {theirs['cpu_seconds'] * 1e6:11.0f} "
          f"{cpu / theirs['cpu_seconds']:7.3f} {MUST_CPU:7.3f} {TOWARD_CPU:7.3f}")
    print(f"{'resident memory, octets':34} {size:10.0f} {theirs['bytes']:11.0f} "
          f"{size / theirs['bytes']:7.3f} {MUST_BYTES:7} {TOWARD_BYTES:7}")
    print(f"({CORE_COUNT} and {count} handshakes; strongSwan: initiator "
          f"{theirs['initiator'] * 1e6:.0f} us, responder {theirs['responder'] * 1e6:.0f} us; "
          f"Espalier's peer configuration: {ours[0]['peer_bytes']:.0f} octets more)")
    return 0 if cpu <= MUST_CPU * theirs["cpu_seconds"] and size <= MUST_BYTES else 1


if __name__ == "__main__":
    sys.exit(main())
