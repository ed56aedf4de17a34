"""ike_probe: Espalier's protocol core with real sockets and no datapath."""

import json
import os

from lab import LabError, Namespace, binary, wait_until
from lab.node import write_secret


class Probe:
    def __init__(self, lab, namespace: Namespace, config: dict, files: dict[str, str]):
        """config: the agent's file; files: secrets that it names."""
        self.namespace = namespace
        self.folder = lab.folder / f"probe-{namespace.suffix}"
        self.folder.mkdir()
        for name, text in files.items():
            write_secret(self.folder / name, text)
        path = self.folder / "node.yaml"
        path.write_text(json.dumps(config, indent=2))
        commands = self.folder / "commands"
        os.mkfifo(commands)
        self.process = namespace.start(
            f"probe-{namespace.suffix}",
            ["sh", "-c", 'exec "$0" "$1" < "$2" 2> "$3"', binary("ike_probe"), path,
             commands, self.folder / "stderr"])
        # Both ways, so that it opens before the other end does.
        self._commands = os.open(commands, os.O_RDWR)
        lab.on_close(lambda: os.close(self._commands))
        self.wait_event("ready")

    def command(self, text: str) -> None:
        os.write(self._commands, (text + "\n").encode())

    def events(self) -> list[dict]:
        lines = self.process.log().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def count(self, name: str) -> int:
        return sum(event["event"] == name for event in self.events())

    def wait_event(self, name: str, number: int = 1, seconds: float = 15) -> dict:
        """The number-th event of that name."""
        def found():
            same = [event for event in self.events() if event["event"] == name]
            return same[number - 1] if len(same) >= number else None
        try:
            return wait_until(found, seconds, f"event {name} number {number}")
        except LabError as error:
            stderr = (self.folder / "stderr")
            raise LabError(
                f"{error}; events:\n{self.process.tail(20)}\n"
                f"{stderr.read_text() if stderr.exists() else ''}") from None

    def status(self) -> dict:
        before = self.count("status")
        self.command("status")
        return self.wait_event("status", before + 1)

    def established(self) -> list[dict]:
        return [sa for sa in self.status()["ikeSas"] if sa["state"] == "established"]

    def wait_status(self, condition, seconds: float, what: str) -> dict:
        last = {}

        def found():
            last.update(self.status())
            return last if condition(last) else None
        try:
            return wait_until(found, seconds, what)
        except LabError as error:
            raise LabError(f"{error}; last status {last}") from None


def configuration(number: int, other: int, *, ike: list[str], child: list[str],
                  psk: bool = True, initiate: str = "always",
                  extra: dict | None = None) -> dict:
    """Of node `number`, called e.test, towards strongSwan at `other`, s.test."""
    auth = ({"pskFile": "psk"} if psk else {"publicKeyFiles": ["peer.pub"]})
    config = {
        "node": {"name": "e", "identity": "fqdn:e.test",
                 "addresses": [f"192.0.2.{number}"],
                 "podCIDRs": [f"10.244.{number}.0/24"], "uplinkMTU": 1500},
        "cluster": {"podCIDRs": ["10.244.0.0/16"]},
        "peers": [{"name": "s", "identity": "fqdn:s.test",
                   "addresses": [f"192.0.2.{other}"],
                   "podCIDRs": [f"10.244.{other}.0/24"], "auth": auth,
                   "initiate": initiate, "probe": "off",
                   "proposals": {"ike": ike, "child": child}}],
        "timers": {"retransmitFirst": "500ms", "drain": "1s"},
        "logLevel": "debug",
    }
    if not psk:
        config["auth"] = {"privateKeyFile": "own.key"}
    for key, value in (extra or {}).items():
        config[key] = {**config.get(key, {}), **value} if isinstance(value, dict) else value
    return config


