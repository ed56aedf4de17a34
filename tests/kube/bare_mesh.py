"""Espalier's programs as they are built, on a cluster without the chart's pods: with
kubeconfigs of its accounts, under its RBAC and admission policies."""

import json
import pathlib

from api_server import SPACE, Client, agent_token, policies_answer
from lab import Lab
from lab.kube import Cluster
from lab.kube.settings import POD_CIDRS
from lab.session import binary

CHART = pathlib.Path(__file__).resolve().parents[2] / "charts/espalier"
RUN = "/run/espalier"


class Mesh:
    """espd and agent on each node, the controller beside the API server. A
    namespace that says nothing is `disabled`. extra: of each agent's configuration;
    more_pod_cidrs: of nodes that are objects alone."""

    def __init__(self, lab: Lab, cluster: Cluster, *, extra: dict | None = None,
                 more_pod_cidrs: tuple[str, ...] = ()):
        self.lab = lab
        self.cluster = cluster
        self.extra = extra or {}
        self.pod_cidrs = [*POD_CIDRS, *more_pod_cidrs]
        cluster.kubectl("create", "namespace", SPACE)
        self.apply_chart()
        self.accounts = {
            node.name: Client(cluster, token=agent_token(cluster, node.name)).config
            for node in cluster.nodes}
        token = cluster.kubectl("create", "token", "espalier-controller", "-n", SPACE)
        self.accounts["controller"] = Client(cluster, token=token.stdout.strip()).config
        for node in cluster.nodes:
            self.start(node)

    def start(self, node) -> None:
        node.run(["mkdir", "-p", RUN])
        node.start("espd", [binary("espalier-espd"), f"--socket={RUN}/espd.sock"])
        self.start_agent(node)

    def apply_chart(self) -> None:
        """All of it but what would run."""
        parts = [f"templates/{name}" for name in ("rbac.yaml", "admission.yaml", *(
            f"crds/{path.name}" for path in sorted(CHART.glob("templates/crds/*.yaml"))))]
        text = self.cluster.helm(
            "template", "espalier", CHART, "--namespace", SPACE, "--values", "-",
            *(word for part in parts for word in ("--show-only", part)), input=json.dumps(
                {"clusterPodCIDRs": self.pod_cidrs, "plaintextPath": "direct",
                 "defaultMode": "disabled"})).stdout
        self.cluster.kubectl("apply", "-f", "-", input=text)
        self.cluster.kubectl("wait", "--for=condition=Established", "crd", "--all",
                             "--timeout=30s")
        policies_answer(Client(self.cluster))
        encrypt(self.cluster, "default", "preferred")

    def start_controller(self) -> None:
        self.cluster.control.start("controller", [
            binary("espalier-controller"), "--identity=one", f"--namespace={SPACE}",
            f"--cluster-pod-cidr={','.join(self.pod_cidrs)}",
            f"--kubeconfig={self.accounts['controller']}"])

    def start_agent(self, node) -> None:
        config = node.folder / "agent.yaml"
        # JSON is YAML.
        config.write_text(json.dumps({
            "cluster": {"source": "kubernetes", "plaintextPath": "direct",
                        "podCIDRs": self.pod_cidrs},
            "modes": {"default": "disabled"},
            "kubernetes": {"kubeconfig": str(self.accounts[node.name])},
            "guard": {"bpf": "auto"}, **self.extra}))
        node.start("agent", [
            "env", f"NODE_NAME={node.name}", binary("espalier-agent"),
            "--config", config, "--install-cni", "--cni-binary", binary("espalier-cni")])

    def log(self, machine, program: str = "agent") -> str:
        return machine.processes[program].log_path.read_text()

    def ask(self, node, *words) -> dict:
        return json.loads(node.run([binary("kubectl-espalier"), "--socket",
                                    f"{RUN}/agent.sock", "-o", "json", *words]).stdout)

    def up(self, node) -> bool:
        result = node.run([binary("kubectl-espalier"), "--socket", f"{RUN}/agent.sock",
                           "tunnels"], check=False)
        return result.returncode == 0 and " up " in result.stdout


def encrypt(cluster: Cluster, name: str, word: str) -> None:
    cluster.kubectl("annotate", "--overwrite", "namespace", name,
                    f"espalier.dev/encryption={word}")
