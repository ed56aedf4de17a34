"""Who asked the API server for what: its audit log.

    log = AuditLog(lab.folder)
    cluster = Cluster(lab, apiserver_flags=log.flags)
    ...
    log.requests(begin, end)
"""

import dataclasses
import datetime
import json
import pathlib

_ACCOUNT = "system:serviceaccount:"
_NODE = "authentication.kubernetes.io/node-name"


@dataclasses.dataclass
class Request:
    """when: seconds since the epoch. who: the user, a service account with its node.
    what: the resource, or the path of what is none. code: 0 while it lasts."""
    when: float
    who: str
    verb: str
    what: str
    code: int

    @property
    def is_watch(self) -> bool:
        return self.verb == "watch"


class AuditLog:
    def __init__(self, folder: pathlib.Path):
        self._policy = folder / "audit-policy.json"
        self._log = folder / "audit.log"
        # Of everybody: a request that is refused has no user to choose it by.
        self._policy.write_text(json.dumps({
            "apiVersion": "audit.k8s.io/v1", "kind": "Policy",
            "rules": [{"level": "Metadata"}]}))

    @property
    def flags(self) -> list[str]:
        return [f"--audit-policy-file={self._policy}", f"--audit-log-path={self._log}"]

    def requests(self, begin: float, end: float) -> list[Request]:
        """Those that came in that time. Each is several lines, one a stage."""
        found: dict[str, Request] = {}
        for line in self._log.read_text().splitlines():
            event = json.loads(line)
            when = datetime.datetime.fromisoformat(
                event["requestReceivedTimestamp"].replace("Z", "+00:00")).timestamp()
            if begin <= when < end:
                found[event["auditID"]] = Request(
                    when, _who(event), event["verb"], _what(event),
                    event.get("responseStatus", {}).get("code", 0))
        return sorted(found.values(), key=lambda request: request.when)


def _who(event: dict) -> str:
    user = event.get("user", {})
    name = user.get("username", "") or "nobody"
    node = user.get("extra", {}).get(_NODE, [""])[0]
    if not name.startswith(_ACCOUNT):
        return name
    return f"{name.removeprefix(_ACCOUNT)} on {node}"


def _what(event: dict) -> str:
    thing = event.get("objectRef")
    if thing is None:
        return event["requestURI"].partition("?")[0]
    parts = (thing.get("resource", ""), thing.get("subresource", ""))
    return "/".join(part for part in parts if part)
