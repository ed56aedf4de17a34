"""CPU and memory of one IKE_SA with its CHILD_SA: two Espalier processes against
two strongSwan daemons, PSK, X25519, aes256gcm16-prfsha384, in one run.

    handshake_bench.py [COUNT]      run by ./dev bench; needs root

The same for both: two processes in two namespaces on one wire, with sockets,
worker threads and user-space SAs in the daemon's own process (a strongSwan
daemon does not negotiate without a place to put them), COUNT handshakes in
bursts of AT_ONCE, no log, no cookies. CPU is the scheduler's own account of all
threads, user and system. strongSwan's initiator also answers one short vici
command a handshake; Espalier's processes leave out what the agent does around
IKE (policies, routes, the control socket of espd).

Memory is one end's alone: two protocol cores in one process, without SAs.
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
AT_ONCE = 50
THREADS = 2  # the agent's ike.cryptoThreads
MUST_CPU, TOWARD_CPU = 1 / 3, 1 / 7
MUST_BYTES, TOWARD_BYTES = 8192, 4096


def cpu_seconds(pid: int) -> float:
    """Of the threads that there are: neither side ends one meanwhile."""
    return sum(int(path.read_text().split()[0])
               for path in pathlib.Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


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


class Espalier:
    """One handshake_daemon, and its answers."""

    def __init__(self, namespace: Namespace, side: int, count: int):
        addresses = [f"192.0.2.{n}" for n in ((1, 2) if side == 1 else (2, 1))]
        command = namespace.command([binary("handshake_daemon"), str(side), *addresses,
                                     str(count), str(THREADS)])
        self._popen = subprocess.Popen([str(word) for word in command], text=True,
                                       stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.pid = self._popen.pid
        namespace.lab.record_process(self.pid)
        namespace.lab.on_close(self.stop)
        self.expect("ready")

    def expect(self, line: str) -> None:
        answer = self._popen.stdout.readline().strip()
        if answer != line:
            raise RuntimeError(f"handshake_daemon says {answer!r}, not {line!r}")

    def say(self, line: str) -> None:
        self._popen.stdin.write(line + "\n")
        self._popen.stdin.flush()

    def stop(self) -> None:
        self._popen.stdin.close()
        self._popen.wait(10)


def espalier(lab: Lab, name: str, count: int) -> dict:
    wire = Wire(lab, suffix=f"{name}w")
    total = count + WARM_UP
    daemons = []
    for number in (1, 2):
        namespace = Namespace(lab, f"{name}{number}")
        wire.attach(namespace, number)
        daemons.append((namespace, number))
    responder = Espalier(daemons[1][0], 2, total)
    initiator = Espalier(daemons[0][0], 1, total)
    pids = [initiator.pid, responder.pid]

    def establish(first: int, last: int) -> None:
        for begin in range(first, last, AT_ONCE):
            end = min(begin + AT_ONCE, last)
            initiator.say(f"establish {end - begin}")
            initiator.expect(f"established {end}")

    establish(0, WARM_UP)
    cpu = [cpu_seconds(pid) for pid in pids]
    establish(WARM_UP, total)
    each = [(cpu_seconds(pid) - before) / count for pid, before in zip(pids, cpu)]
    responder.say("count")
    responder.expect(f"established {total}")
    return {"initiator": each[0], "responder": each[1], "cpu_seconds": sum(each)}


def cores() -> dict:
    result = subprocess.run([binary("handshake_cores"), str(CORE_COUNT)], check=True,
                            capture_output=True, text=True)
    return json.loads(result.stdout)


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else COUNT
    memory = cores()
    # In turn, so that a change of the machine's pace meets both.
    with Lab("handshake") as lab:
        ours = [espalier(lab, "x", count)]
        theirs = strongswan(lab, count)
        ours.append(espalier(lab, "y", count))

    def mean(what: str) -> float:
        return sum(one[what] for one in ours) / len(ours)

    cpu = mean("cpu_seconds")
    size = memory["bytes"]
    print(f"{'one IKE_SA with its CHILD_SA':34} {'Espalier':>10} {'strongSwan':>11} "
          f"{'ratio':>7} {'must':>7} {'toward':>7}")
    print(f"{'CPU, both sides, us':34} {cpu * 1e6:10.0f} {theirs['cpu_seconds'] * 1e6:11.0f} "
          f"{cpu / theirs['cpu_seconds']:7.3f} {MUST_CPU:7.3f} {TOWARD_CPU:7.3f}")
    for side in ("initiator", "responder"):
        print(f"{'  ' + side:34} {mean(side) * 1e6:10.0f} {theirs[side] * 1e6:11.0f} "
              f"{mean(side) / theirs[side]:7.3f}")
    print(f"{'resident memory, octets':34} {size:10.0f} {theirs['bytes']:11.0f} "
          f"{size / theirs['bytes']:7.3f} {MUST_BYTES:7} {TOWARD_BYTES:7}")
    print(f"({count} handshakes in bursts of {AT_ONCE}; the cores alone, without sockets and "
          f"threads: {memory['cpu_seconds'] * 1e6:.0f} us; a peer's configuration: "
          f"{memory['peer_bytes']:.0f} octets more)")
    return 0 if cpu <= MUST_CPU * theirs["cpu_seconds"] and size <= MUST_BYTES else 1


if __name__ == "__main__":
    sys.exit(main())
