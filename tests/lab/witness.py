"""Sees every frame that anybody puts on the wires, for the whole test, and
judges each at once (lab-witness, which shares no code with Espalier)."""

import dataclasses

from lab.session import Lab
from lab.tool import Tool
from lab.wire import BRIDGE, Wire


@dataclasses.dataclass
class Seen:
    counts: dict[str, int]
    violations: list  # [when, device, first octets in hex], the first few

    def get(self, kind: str, family: int | None = None) -> int:
        families = (family,) if family else (4, 6)
        return sum(self.counts.get(f"{kind}{each}", 0) for each in families)

    def since(self, before: "Seen") -> "Seen":
        return Seen({kind: count - before.counts.get(kind, 0)
                     for kind, count in self.counts.items()}, self.violations)

    @property
    def esp(self) -> int:
        return self.get("esp") + self.get("esp_udp")


class Witness:
    """Kinds: plaintext (a violation), control, unguarded, disabled, attacker,
    esp, esp_udp, ike, keepalive, other."""

    def __init__(self, lab: Lab, wire: Wire, cidrs: list[str]):
        self._wire = wire
        self._tool = Tool(lab, "lab-witness", wire.namespace.path)
        for cidr in cidrs:
            self._tool.ask("cidr", cidr)
        self.see_bridge(BRIDGE)

    def _index(self, device: str) -> str:
        return self._wire.namespace.run(
            ["ip", "-o", "link", "show", "dev", device]).stdout.partition(":")[0]

    def see_bridge(self, device: str) -> None:
        """A bridge shows again what came in at its ports."""
        self._tool.ask("bridge", self._index(device))

    def attacker(self, device: str) -> None:
        """What comes in at that port is forged by the test, and no node's."""
        self._tool.ask("attacker", self._index(device))

    def allow_plaintext(self, *addresses: str) -> None:
        for address in addresses:
            self._tool.ask("disabled", address)

    def forbid_plaintext(self, *addresses: str) -> None:
        for address in addresses:
            self._tool.ask("required", address)

    def unguarded(self, *cidrs: str) -> None:
        for cidr in cidrs:
            self._tool.ask("unguarded", cidr)

    def seen(self) -> Seen:
        answer = self._tool.ask("stats")
        violations = answer.pop("violations")
        # A witness that looked away is none.
        assert answer.pop("lost") == 0, "the witness lost frames"
        return Seen(answer, violations)
