"""A control plane without nodes, for tests of what the API server alone decides:
schemas, RBAC, admission policies, and the controller."""

import base64
import json
import pathlib
import subprocess

from lab import wait_until
from lab.kube import Cluster
from lab.kube.images import NAME

SPACE = "espalier-system"
KEY = base64.b64encode(bytes(range(44))).decode()
CIDRS = ["10.244.0.0/16", "fd00:244::/48"]


def install(cluster: Cluster, chart: pathlib.Path, **values) -> None:
    """The chart's own objects. Its pods stay pending: there is no node."""
    values = {"clusterPodCIDRs": CIDRS, **values}
    cluster.helm("upgrade", "--install", "espalier", chart, "--namespace", SPACE,
                 "--create-namespace", "--values", "-", input=json.dumps(values), timeout=120)
    cluster.kubectl("wait", "--for=condition=Established", "--timeout=60s",
                    "crd/espaliernodes.espalier.dev",
                    "crd/espaliernodereports.espalier.dev")


def add_node(cluster: Cluster, name: str, number: int, *, pod_cidrs=None, address=None) -> None:
    """As a kubelet registers it; no kubelet runs."""
    cidrs = [f"10.244.{number}.0/24", f"fd00:244:0:{number:x}::/64"]
    cidrs = cidrs if pod_cidrs is None else pod_cidrs
    spec = {"podCIDR": cidrs[0], "podCIDRs": cidrs} if cidrs else {}
    cluster.kubectl("create", "-f", "-", input=json.dumps({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": spec}))
    set_address(cluster, name, address or f"192.0.2.{number}")


def set_address(cluster: Cluster, name: str, address: str) -> None:
    cluster.kubectl("patch", "node", name, "--subresource=status", "--type=merge", "-p",
                    json.dumps({"status": {"addresses": [
                        {"type": "InternalIP", "address": address}]}}))


class Client:
    """kubectl as somebody: by a token alone, or impersonating."""

    def __init__(self, cluster: Cluster, *, token: str = "", user: str = ""):
        self.cluster = cluster
        self.words = [f"--as={user}"] if user else []
        self.config = None
        if token:
            # admin.conf's client certificate would win over a token.
            ca = base64.b64encode(
                cluster.settings.authority.certificate.read_bytes()).decode()
            path = cluster.lab.folder / f"token-{abs(hash(token))}.conf"
            path.touch(mode=0o600)
            path.write_text(json.dumps({
                "apiVersion": "v1", "kind": "Config", "current-context": "x",
                "clusters": [{"name": "x", "cluster": {
                    "server": cluster.server, "certificate-authority-data": ca}}],
                "users": [{"name": "x", "user": {"token": token}}],
                "contexts": [{"name": "x", "context": {
                    "cluster": "x", "user": "x", "namespace": SPACE}}]}))
            self.config = path
            self.words = [f"--kubeconfig={path}"]

    def kubectl(self, *words, **options) -> subprocess.CompletedProcess:
        return self.cluster.kubectl(*self.words, *words, **options)

    def apply(self, *objects: dict, subresource: str = "", manager: str = "espalier-agent"
              ) -> str:
        """Server-side; the refusal's words, or nothing."""
        words = [f"--subresource={subresource}"] if subresource else []
        for item in objects:
            result = self.kubectl("apply", "--server-side", f"--field-manager={manager}",
                                  "--force-conflicts", *words, "-f", "-",
                                  input=json.dumps(item), check=False)
            if result.returncode != 0:
                return result.stderr
        return ""


def agent_token(cluster: Cluster, node: str, *, bound: bool = True) -> str:
    """What kubelet gives to an agent's pod on that node; not bound: a token of the
    same account that names no node."""
    if not bound:
        return cluster.kubectl("create", "token", "espalier-agent", "-n",
                               SPACE).stdout.strip()
    name = f"agent-on-{node}"
    cluster.kubectl("apply", "-f", "-", input=json.dumps({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": SPACE},
        # On a node that has no pod network yet as well.
        "spec": {"serviceAccountName": "espalier-agent", "nodeName": node,
                 "hostNetwork": True, "terminationGracePeriodSeconds": 0, "containers": [
                     {"name": "agent", "image": NAME, "imagePullPolicy": "Never"}]}}))
    uid = cluster.get("pod", name, "-n", SPACE)["metadata"]["uid"]
    return cluster.kubectl("create", "token", "espalier-agent", "-n", SPACE,
                           "--bound-object-kind=Pod", f"--bound-object-name={name}",
                           f"--bound-object-uid={uid}").stdout.strip()


def espalier_node(name: str, **spec) -> dict:
    return {"apiVersion": "espalier.dev/v1alpha1", "kind": "EspalierNode",
            "metadata": {"name": name}, "spec": {"publicKeys": [KEY], **spec}}


def report(name: str, **status) -> dict:
    item = {"apiVersion": "espalier.dev/v1alpha1", "kind": "EspalierNodeReport",
            "metadata": {"name": name}}
    return {**item, "status": status} if status else item


def policies_answer(admin: Client) -> None:
    """A policy is in force some moments after it was made, each at a moment of its
    own, and a binding's authorizer after its role. So each is asked by dry runs for
    what it alone refuses."""
    name = "policy-probe"

    def namespace(mode: str) -> dict:
        return {"apiVersion": "v1", "kind": "Namespace", "metadata": {
            "name": name, "annotations": {"espalier.dev/encryption": mode}}}

    def create(item: dict, client: Client = admin) -> str:
        return client.kubectl("create", "--dry-run=server", "-f", "-", check=False,
                              input=json.dumps(item)).stderr

    assert admin.apply(namespace("required")) == ""
    admin.kubectl("create", "clusterrole", name, "--verb=get,patch", "--resource=namespaces")
    admin.kubectl("create", "clusterrolebinding", name, f"--clusterrole={name}",
                  f"--user={name}")
    agent = Client(admin.cluster, user=f"system:serviceaccount:{SPACE}:espalier-agent")
    editor = Client(admin.cluster, user=name)
    bad = namespace("nonsense")
    bad["metadata"]["name"] = f"{name}-2"
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": name},
           "spec": {"hostNetwork": True, "containers": [{"name": "c", "image": "none"}]}}
    probes = {
        "espalier-words": lambda: "expected one of" in create(bad),
        "espalier-host-network": lambda: "asks for encryption" in create(pod),
        "espalier-own-node": lambda: "names no node" in create(espalier_node(name), agent),
        "espalier-weaken": lambda: "may not weaken" in editor.kubectl(
            "annotate", "--dry-run=server", "namespace", name, "espalier.dev/encryption-",
            check=False).stderr}
    made = {item["metadata"]["name"] for item in admin.cluster.get(
        "validatingadmissionpolicies")["items"]}
    assert {policy for policy in made if policy.startswith("espalier-")} == set(probes)
    for policy, refuses in probes.items():
        wait_until(refuses, 60, f"the admission policy {policy} is in force")
    admin.kubectl("delete", f"clusterrolebinding/{name}", f"clusterrole/{name}")
    admin.kubectl("delete", "namespace", name, "--wait=false")
