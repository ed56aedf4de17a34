"""./dev cluster up, down, status: a keeper in the background owns the cluster,
as a test owns its own, and undoes it when it is told to end. Were the keeper
killed, all it made ends with it, and the next lab sweeps the rest."""

import argparse
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

from lab.errors import LabError
from lab.kube import espalier
from lab.kube.cluster import RUNTIMES, Cluster
from lab.kube.settings import PROXY_MODES
from lab.session import Lab, cache_folder, kill_process, start_time

STATE = cache_folder().parent / "cluster.json"
LOG = cache_folder().parent / "logs/cluster.log"
# Ending a cluster: seconds until the keeper is no longer waited for.
DOWN_SECONDS = 120


def read_state() -> dict | None:
    """Of a keeper that lives."""
    try:
        state = json.loads(STATE.read_text())
    except (OSError, ValueError):
        return None
    return state if start_time(state["pid"]) == state["started"] else None


def write_state(**fields) -> None:
    temporary = STATE.with_suffix(".tmp")
    temporary.write_text(json.dumps(
        {"pid": os.getpid(), "started": start_time(os.getpid()), **fields}))
    temporary.rename(STATE)


def keep(args) -> int:
    """The keeper itself."""
    def progress(step: str, seconds: float) -> None:
        print(f"{seconds:6.1f} s  {step}", flush=True)
    write_state(ready=False)
    with Lab("cluster") as lab:
        cluster = Cluster(lab, nodes=args.nodes, proxy_mode=args.proxy,
                          runtime=args.runtime, progress=progress)
        cluster.up()
        if args.image:
            cluster.load_image(pathlib.Path(args.image))
        if args.network == "plain":
            cluster.plain_network()
            cluster.wait_for_nodes()
        elif args.network == "espalier":
            espalier.install(cluster)
            progress("chart is installed", time.monotonic() - cluster.begin)
            cluster.wait_for_nodes()
        write_state(ready=True, folder=str(lab.folder), shell=str(cluster.write_shell()),
                    nodes={node.name: node.namespace.name for node in cluster.nodes},
                    wire=cluster.wire.namespace.name, network=args.network)
        print("ready", flush=True)
        try:
            while True:
                signal.pause()
        except KeyboardInterrupt:
            print("taking it down", flush=True)
    return 0


def up(args) -> int:
    if read_state():
        print("a cluster is up already: ./dev cluster status, ./dev cluster down",
              file=sys.stderr)
        return 1
    LOG.parent.mkdir(exist_ok=True)
    with open(LOG, "wb") as log:
        words = [f"--{name}={value}" for name, value in (
            ("nodes", args.nodes), ("proxy", args.proxy), ("runtime", args.runtime),
            ("network", args.network), ("image", args.image)) if value is not None]
        keeper = subprocess.Popen(
            [sys.executable, "-m", "lab.kube.command", "keep", *words],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    try:
        return _follow(keeper)
    except KeyboardInterrupt:
        print("interrupted; taking it down")
        keeper.terminate()
        keeper.wait(DOWN_SECONDS)
        return 130


def _follow(keeper: subprocess.Popen) -> int:
    """Shows the keeper's words until the cluster is ready."""
    with open(LOG, encoding="utf-8", errors="replace") as log:
        while True:
            ended = keeper.poll() is not None
            for line in log.readlines():
                if line.strip() == "ready":
                    return status(None)
                print(line, end="", flush=True)
            if ended:
                print(f"the cluster did not come up; log {LOG}", file=sys.stderr)
                return 1
            time.sleep(0.1)


def down(args) -> int:
    state = read_state()
    if not state:
        print("no cluster is up")
        return 0
    begin = time.monotonic()
    kill_process(state["pid"], state["started"], grace=DOWN_SECONDS)
    STATE.unlink(missing_ok=True)
    print(f"the cluster is gone ({time.monotonic() - begin:.1f} s)")
    return 0


def status(args) -> int:
    """1: none is up."""
    state = read_state()
    if not state:
        print("no cluster is up; ./dev cluster up")
        return 1
    if not state["ready"]:
        print(f"a cluster is coming up; log {LOG}")
        return 1
    print(f"cluster up: {', '.join(state['nodes'])}\n"
          f"logs: {state['folder']}/*.log\n\nuse it:\n"
          f"  . {state['shell']}            # kubectl, helm\n"
          f"  kubectl get nodes -o wide")
    if state["network"] == "none":
        print("  helm " + " ".join(espalier.helm_words("install"))
              + f" --set-json '{json.dumps(espalier.VALUES)}'")
    for name, namespace in state["nodes"].items():
        print(f"  ip netns exec {namespace} ip route    # the network of {name}")
    print(f"  ip netns exec {state['wire']} tcpdump -ni br0    # the wire between them\n"
          "  ./dev cluster down")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="./dev cluster")
    commands = parser.add_subparsers(required=True)
    for function in (up, keep, down, status):
        sub = commands.add_parser(function.__name__)
        sub.set_defaults(function=function)
        if function in (up, keep):
            sub.add_argument("--nodes", type=int, default=2)
            sub.add_argument("--proxy", choices=PROXY_MODES, default=PROXY_MODES[0])
            sub.add_argument("--runtime", choices=RUNTIMES, default=RUNTIMES[0])
            sub.add_argument("--network", choices=("none", "plain", "espalier"),
                             default="none")
            sub.add_argument("--image")
    args = parser.parse_args()
    try:
        return args.function(args)
    except LabError as error:
        print(f"cluster: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
