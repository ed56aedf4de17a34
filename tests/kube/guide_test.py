"""The guide as a newcomer follows it, word by word: from the image to the proof
by docs/guide/kubernetes.md, then the other pages' commands on the same cluster.
What cannot be typed here as it stands is listed below, each with its reason; a
block that is not runs, whatever it is. The tests follow one another."""

import os
import pathlib
import subprocess

import pytest

import guide
from lab import wait_until
from lab.kube import images
from lab.session import binary

# The start of a block that is not run.
LEFT_OUT = {
    "kubernetes.md": {
        "./dev image\n": "CI made the image already, of the dev build",
        "podman build": "needs a registry, and is the other way to the image",
        "helm upgrade": "install_test rolls both DaemonSets, under traffic",
        "kubectl espalier uninstall": "install_test does both, and looks at what is left",
        "./dev cluster up": "this is such a cluster",
    },
    "require-encryption.md": {
        "espalier-agent --config": "of hosts with a file: tests/netns",
    },
    "verify.md": {
        "tcpdump -ni eth0 'net": "runs until it is interrupted; lab.kube.captured does so",
    },
    "inspect.md": {},
    "troubleshoot.md": {},
}
# What is typed differently here.
INSTEAD = {
    "build/image/release/espalier.tar": ("{image}", "the image of the dev build"),
    "build/release/bin/": ("{programs}/", "the programs of the dev build"),
    "--set 'clusterPodCIDRs": ("--set espd.lockMemory=false --set 'clusterPodCIDRs",
                               "this machine may lack CAP_SYS_RESOURCE"),
    "busybox:1.36": (images.NAME, "no registry serves images here"),
    "node-b": ("{other}", "the pages for hosts call their nodes node-a and node-b"),
}
# Words of a block that is typed on a node: that of shop/web-0.
ON_A_NODE = ("--socket /run/espalier/agent.sock", "127.0.0.1:9469")


class Reader:
    """Somebody with a checkout, kubectl, helm, and ssh to the nodes."""

    def __init__(self, cluster, image):
        self.cluster = cluster
        self.words = {"image": image, "programs": pathlib.Path(binary("kubectl-espalier")).parent}
        self.used: set[str] = set()
        home = cluster.lab.folder / "home"
        folder = cluster.lab.folder / "reader-bin"
        home.mkdir()
        folder.mkdir()
        # kubectl espalier is what the guide installs, and nothing else.
        (cluster.folder_of_commands / "kubectl-espalier").unlink()
        ssh = folder / "ssh"
        ssh.write_text("#!/bin/sh\nnode=\"$1\"; shift; [ \"$1\" != sudo ] || shift\n"
                       "case \"$node\" in\n" + "".join(
                           f"{node.name}) exec {' '.join(node.command([]))} \"$@\" ;;\n"
                           for node in cluster.nodes) + "esac\nexit 255\n")
        ssh.chmod(0o755)
        self.environment = {
            **os.environ, "HOME": str(home),
            "PATH": f"{folder}:{home}/.local/bin:{cluster.folder_of_commands}:"
                    f"{os.environ['PATH']}",
            "KUBECONFIG": str(cluster.settings.authority.folder / "admin.conf")}

    def type(self, script: str) -> subprocess.CompletedProcess:
        for there, (here, _) in INSTEAD.items():
            if there in script:
                self.used.add(there)
                script = script.replace(there, here.format(**self.words))
        command = ["bash", "-e", "-o", "pipefail", "-c", script]
        environment = self.environment
        if any(words in script for words in ON_A_NODE):
            command = self.cluster.node(self.words["host"]).command(command)
            environment = {**os.environ,
                           "PATH": f"{self.words['programs']}:{os.environ['PATH']}"}
        if "kubectl apply" in script:
            # A person types slower than a new namespace gets its account.
            wait_until(lambda: self.cluster.kubectl(
                "get", "serviceaccount", "default", "-n", "shop", check=False
            ).returncode == 0, 30, "the account of namespace shop")
        print("$", script.strip(), flush=True)
        result = subprocess.run(command, capture_output=True, text=True, timeout=180,
                                cwd=guide.DOCS.parent, env=environment)
        print(result.stdout, result.stderr, flush=True)
        return result

    def follow(self, page: str, sections=lambda name: True) -> None:
        left_out = LEFT_OUT[page]
        for block in guide.of_page(page):
            if not sections(block.section):
                continue
            start = next((s for s in left_out if block.text.startswith(s)), None)
            if start is not None:
                self.used.add(f"{page}: {start}")
                continue
            for script, shown in block.steps():
                result = self.type(script)
                assert result.returncode == 0, (str(block), result.stdout, result.stderr)
                assert shown is None or guide.same(shown, result.stdout.splitlines()), (
                    str(block), shown, result.stdout)


@pytest.fixture(scope="module")
def reader(cluster, image) -> Reader:
    return Reader(cluster, image)


def number(section: str) -> int:
    """Of the sections that are one path; 0: of none."""
    head = section.partition(".")[0]
    return int(head) if head.isdigit() else 0


LAST = 7  # takes the pods away


def test_from_the_image_to_the_proof(reader):
    assert reader.cluster.kubectl("espalier", "--version", check=False).returncode != 0
    reader.follow("kubernetes.md", lambda section: 0 < number(section) < LAST)
    # Where the scheduler put them.
    for word, pod in (("host", "web-0"), ("other", "db-0")):
        reader.words[word] = reader.cluster.get("pod", "-n", "shop", pod)["spec"]["nodeName"]
    assert reader.words["host"] != reader.words["other"]


@pytest.mark.parametrize("page", [page for page in LEFT_OUT if page != "kubernetes.md"])
def test_the_other_pages(reader, page):
    # Those of `verify --probe` would be among what is shown.
    wait_until(lambda: "espalier-verify-" not in reader.cluster.kubectl(
        "get", "namespaces").stdout, 60, "the probe's namespace is gone")
    reader.follow(page)


def test_what_does_not_pass_is_not_proven(reader):
    """The control of `verify --probe`: with ESP dropped on the way it says so, and
    leaves nothing."""
    a, b = reader.cluster.nodes
    b.run(["nft", "-f", "-"], input="""
table inet on_the_way {
  chain input {
    type filter hook input priority -300; policy accept;
    ip protocol esp drop
    ip6 nexthdr esp drop
    udp dport 4500 drop
  }
}
""")
    try:
        result = reader.type("kubectl espalier verify --probe node-1 node-2")
    finally:
        b.run(["nft", "delete", "table", "inet", "on_the_way"])
    assert result.returncode == 5
    assert "from node-1 to node-2 by IPv4 0 of 100 questions were answered" in result.stdout
    assert "Proven" not in result.stdout
    wait_until(lambda: "espalier-verify-" not in reader.cluster.kubectl(
        "get", "namespaces").stdout, 60, "both probes' namespaces are gone")


def test_the_end_of_the_path(reader):
    reader.follow("kubernetes.md", lambda section: number(section) in (0, LAST))
    assert reader.used == {*INSTEAD, *(f"{page}: {start}" for page, starts in LEFT_OUT.items()
                                       for start in starts)}, "the lists have a stale entry"


def test_blocks_and_what_they_show():
    page = """# A
text

    $ one
    shown 10
    $ two

## B
    no \\
      transcript

    but one block

```yaml
    key: value
```
"""
    first, second = guide.blocks("x.md", page)
    assert first.steps() == [("one", ["shown 10"]), ("two", None)]
    assert (first.section, second.section) == ("A", "B")
    assert second.steps() == [("no \\\n  transcript\n\nbut one block\n", None)]


@pytest.mark.parametrize("shown, printed, alike", [
    ("a  10.0.0.1  4s  12  1.5KiB", "b      10.0.0.22   1m4s 7 133B", False),
    ("a  10.0.0.1  4s  12  1.5KiB", "a      10.0.0.22   1m4s 7 133B", True),
    ("2 of 2 up", "1 of 2 up", False),
    ("a\n...\nz", "a\nb\nc\nz", True),
    ("a\n...\nz", "a\nb\nc", False),
    ("a node-1\nb node-2", "b node-1\na node-2", True),
    ("a", "a\nb", False)])
def test_what_is_the_same(shown, printed, alike):
    assert guide.same(shown.splitlines(), printed.splitlines()) == alike
