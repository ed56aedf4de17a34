"""./dev: build, test, try and look after Espalier."""

import argparse
import os
import signal
import sys

import bench
import build
from console import DevError, colour, must_run
import golang
import guest
import guest_parts
import image
import packages
import paths
import style
import suite

DESCRIPTION = """Build, test and try Espalier. Missing Debian packages are installed by apt (as
root); caches live in ~/.cache/espalier, builds in build/PRESET."""

EXAMPLES = """examples:
  ./dev demo              three nodes, six pods, ESP between them (as root)
  ./dev test              everything that CI runs
  ./dev test unit         one stage
  ./dev build release     what users run, in build/release/bin
  ./dev COMMAND --help    more on a command"""


def cmd_build(args) -> int:
    packages.ensure([])
    build.build(args.preset, args.target)
    return 0


def cmd_test(args) -> int:
    if args.list:
        print("\n".join(suite.stages(suite.Totals())))
        return 0
    return suite.main(args.stage, args.quick)


def cmd_format(args) -> int:
    packages.ensure(["format"])
    style.format_files(args.check)
    return 0


def cmd_tidy(args) -> int:
    packages.ensure(["format"])
    build.build("dev")
    style.tidy(args.path)
    return 0


def cmd_fuzz(args) -> int:
    packages.ensure([])
    target = args.target
    corpus = paths.ROOT / "tests/fuzz/corpus" / target.removesuffix("_fuzz")
    if not corpus.is_dir():
        have = sorted(p.name for p in corpus.parent.glob("*") if p.is_dir())
        raise DevError(f"no target {target}; there are: {' '.join(have)}")
    build.build("fuzz", [corpus.name + "_fuzz"])
    found = paths.cache() / "fuzz" / corpus.name
    (found / "crashes").mkdir(parents=True, exist_ok=True)
    (found / "corpus").mkdir(exist_ok=True)
    must_run([paths.BUILD / f"fuzz/bin/{corpus.name}_fuzz",
              f"-max_total_time={args.seconds}", "-print_final_stats=1",
              "-timeout=10", "-rss_limit_mb=2048",
              f"-artifact_prefix={found}/crashes/", found / "corpus", corpus],
             f"fuzzing {target} (inputs that fail are in {found}/crashes)")
    return 0


def cmd_demo(args) -> int:
    if os.geteuid() != 0:
        raise DevError("the demo makes network namespaces: run it as root")
    if args.datapath == "kernel" and args.keep:
        raise DevError("the kernel's demo runs in a virtual machine that nobody can log in "
                       "to: --keep is for the user datapath; ./dev guest runs commands there")
    packages.ensure(["demo"])
    build.build("dev", ["espalier-agent", "espalier-espd", "espalier-cni",
                        "kubectl-espalier"])
    environment = {**os.environ, "ESPALIER_BIN_DIR": str(paths.BUILD / "dev/bin"),
                   "PYTHONPATH": str(paths.ROOT / "tests")}
    sys.stdout.flush()
    if args.datapath == "kernel":
        os.environ.update(environment)
        return guest.run("/usr/bin/python3 tests/netns/demo.py --datapath kernel",
                         args.kernel)
    os.execve("/usr/bin/python3",
              ["/usr/bin/python3", str(paths.ROOT / "tests/netns/demo.py"),
               *(["--keep"] if args.keep else [])], environment)


def cmd_cluster(args) -> int:
    """tests/lab/kube does it, for people and for the tests alike."""
    if os.geteuid() != 0:
        raise DevError("the cluster's nodes are network namespaces: run it as root")
    words = [args.action]
    if args.action == "up":
        packages.ensure(["demo", "test"])
        golang.ensure()
        words += [f"--nodes={args.nodes}", f"--proxy={args.proxy}",
                  f"--runtime={args.runtime}", f"--network={args.network}"]
        if args.network == "espalier" or args.image:
            words.append(f"--image={image.main(args.image or 'dev')}")
    environment = {**os.environ, "ESPALIER_BIN_DIR": str(paths.BUILD / "dev/bin"),
                   "PYTHONPATH": str(paths.ROOT / "tests")}
    sys.stdout.flush()
    os.execve("/usr/bin/python3",
              ["/usr/bin/python3", "-m", "lab.kube.command", *words], environment)


def cmd_image(args) -> int:
    image.main(args.preset, args.output)
    return 0


def cmd_bench(args) -> int:
    return bench.main(args.name, args.record)


def cmd_shell(args) -> int:
    """The environment in which the tests run, for a person."""
    packages.ensure(["format", "demo", "test", "bench"])
    paths.use_ccache()
    environment = {
        **os.environ,
        "ESPALIER_BIN_DIR": str(paths.BUILD / "dev/bin"),
        "PYTHONPATH": str(paths.ROOT / "tests"),
        "PATH": f"{paths.BUILD}/dev/bin:{os.environ['PATH']}",
    }
    os.chdir(paths.ROOT)
    os.execvpe("bash", ["bash", *(["-c", args.run] if args.run else [])],
               environment)


def cmd_guest(args) -> int:
    os.environ.setdefault("ESPALIER_BIN_DIR", str(paths.BUILD / "dev/bin"))
    os.environ.setdefault("PYTHONPATH", str(paths.ROOT / "tests"))
    return guest.run(args.run, args.kernel, args.cpus, args.memory, args.seconds)


def _command(commands, name, function, summary, examples):
    parser = commands.add_parser(
        name, help=summary, description=summary,
        epilog="examples:\n" + "\n".join(f"  {line}" for line in examples),
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.set_defaults(function=function)
    return parser


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="./dev", description=DESCRIPTION, epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = top.add_subparsers(metavar="COMMAND", required=True)

    sub = _command(commands, "build", cmd_build, "configure and build a preset",
                   ["./dev build", "./dev build release",
                    "./dev build asan-ubsan --target base_test"])
    sub.add_argument("preset", nargs="?", default="dev", choices=build.PRESETS)
    sub.add_argument("--target", action="append", help="only this target; may be repeated")

    sub = _command(commands, "test", cmd_test,
                   "run what CI runs, in stages; a skipped test is a failure",
                   ["./dev test", "./dev test unit sim", "./dev test --quick",
                    "./dev test --list"])
    sub.add_argument("stage", nargs="*", help="only these stages (default: all)")
    sub.add_argument("--quick", action="store_true",
                     help="without clang-tidy and the sanitizer builds")
    sub.add_argument("--list", action="store_true", help="print the stages")

    sub = _command(commands, "demo", cmd_demo,
                   "three nodes and six pods on one wire, ESP between them (as root)",
                   ["./dev demo", "./dev demo --keep", "./dev demo --datapath kernel"])
    sub.add_argument("--datapath", choices=("user", "kernel"), default="user",
                     help="kernel: in a virtual machine whose kernel has ESP")
    sub.add_argument("--kernel", choices=guest_parts.KERNEL_SUITES,
                     default=guest.DEFAULT_KERNEL, help="of that virtual machine")
    sub.add_argument("--keep", action="store_true",
                     help="leave it up until Ctrl-C, and print how to look around")

    sub = _command(commands, "cluster", cmd_cluster,
                   "a Kubernetes of two nodes on this machine, to play with (as root)",
                   ["./dev cluster up", "./dev cluster up --network espalier",
                    "./dev cluster up --nodes 3 --proxy iptables --runtime 2.4",
                    "./dev cluster status", "./dev cluster down"])
    sub.add_argument("action", choices=("up", "down", "status"))
    sub.add_argument("--nodes", type=int, default=2)
    sub.add_argument("--proxy", choices=("nftables", "iptables", "none"),
                     default="nftables", help="kube-proxy's mode")
    sub.add_argument("--runtime", choices=("debian", "2.4"), default="debian",
                     help="containerd: Debian's 1.6, or 2.4 with CNI 1.1.0")
    sub.add_argument("--network", choices=("none", "plain", "espalier"), default="none",
                     help="none: nodes wait for a CNI plugin; plain: ptp, to compare with; "
                          "espalier: the image and the chart of this checkout")
    sub.add_argument("--image", choices=("dev", "release"),
                     help="put the image of that build on each node")

    sub = _command(commands, "image", cmd_image,
                   "the container image as an OCI archive, with its list of packages",
                   ["./dev image", "./dev image dev --output /tmp/espalier.tar",
                    "ctr -n k8s.io images import build/image/release/espalier.tar"])
    sub.add_argument("preset", nargs="?", default="release", choices=("dev", "release"),
                     help="the build whose programs it holds")
    sub.add_argument("--output", metavar="FILE", help="default: build/image/PRESET/espalier.tar")

    sub = _command(commands, "fuzz", cmd_fuzz,
                   "run one libFuzzer target with both sanitizers",
                   ["./dev fuzz ike_message 60"])
    sub.add_argument("target", help="a folder of tests/fuzz/corpus")
    sub.add_argument("seconds", type=int)

    sub = _command(commands, "bench", cmd_bench,
                   "run the benchmarks from the release build (as root)",
                   ["./dev bench", "./dev bench throughput", "./dev bench cni --record"])
    sub.add_argument("name", nargs="*", help="only these (default: all)")
    sub.add_argument("--record", action="store_true",
                     help="keep the result in docs/benchmarks, with date and machine")

    sub = _command(commands, "format", cmd_format, "format all C++ files",
                   ["./dev format", "./dev format --check"])
    sub.add_argument("--check", action="store_true", help="change nothing, fail on a difference")

    sub = _command(commands, "tidy", cmd_tidy,
                   "clang-tidy; files it passed before are not checked again",
                   ["./dev tidy", "./dev tidy agent/ike tests/sim"])
    sub.add_argument("path", nargs="*", help="only files under these")

    sub = _command(commands, "shell", cmd_shell,
                   "a shell with the built programs and the lab on its paths",
                   ["./dev shell", "./dev shell --run 'kubectl-espalier --help'"])
    sub.add_argument("--run", metavar="COMMAND", help="run this and exit")

    sub = _command(commands, "guest", cmd_guest,
                   "run a command under a Debian kernel with ESP, in a virtual machine",
                   ["./dev guest 'uname -r; ip xfrm state'",
                    "./dev guest --kernel 6.1 --cpus 2 'modprobe esp4 && ip -s link'",
                    "ESPALIER_DATAPATH=kernel ./dev guest 'python3 -m pytest -q "
                    "tests/netns/mesh_test.py'"])
    sub.add_argument("run", metavar="COMMAND", help="for bash, in this folder")
    sub.add_argument("--kernel", choices=guest_parts.KERNEL_SUITES,
                     default=guest.DEFAULT_KERNEL)
    sub.add_argument("--cpus", type=int, default=1)
    sub.add_argument("--memory", type=int, default=2048, metavar="MIB")
    sub.add_argument("--seconds", type=int, default=600, help="end the command after")

    sub = _command(commands, "help", lambda args: top.print_help() or 0,
                   "print this help", ["./dev help"])
    return top


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    args = parser().parse_args()
    try:
        return args.function(args)
    except DevError as error:
        print(colour(f"dev: {error}", "31"), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("dev: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
