"""What the kernel guest is made of: QEMU 10, a Debian kernel, an initramfs.

Fetched through apt lists of our own, so that the machine's sources stay as
they are, and unpacked into the cache, not installed: Debian 12's QEMU 7.2
crashes guests with kernel 6.12 (wrong emulation of cmpxchg16b)."""

import contextlib
import fcntl
import lzma
import pathlib
import shutil
import stat
import subprocess

from console import DevError, Step, must_run
import golang
import packages
import paths

KEY = "/usr/share/keyrings/debian-archive-keyring.gpg"
# Kernel series by the suite that carries it. The generic flavour: the cloud
# one has no 9p.
KERNEL_SUITES = {
    "6.1": "bookworm",
    "6.12": "bookworm-backports",
    "6.18": "trixie-backports",
}
# What mounts the root; the rest is loaded from the module tree on the root.
INITRAMFS_MODULES = ("virtio_pci", "9pnet_virtio", "9p", "overlay")

INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t devtmpfs dev /dev
mount -t sysfs sys /sys
for module in $(cat /modules/order); do insmod "/modules/$module" || exit 1; done
mkdir -p /host /over /root
mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose host /host || exit 1
mount -t tmpfs -o size=75% over /over
mkdir -p /over/upper /over/work
mount -t overlay -o lowerdir=/host,upperdir=/over/upper,workdir=/over/work root /root || exit 1
cp /start /root/.espalier-guest-start
umount /proc /sys
mount --move /dev /root/dev
exec switch_root /root /bin/bash /.espalier-guest-start
"""


def home() -> pathlib.Path:
    path = paths.cache() / "guest"
    path.mkdir(exist_ok=True)
    return path


def _options(suites: tuple[str, ...], key: str) -> list[str]:
    """Options that make apt see these suites and nothing that is installed."""
    folder = home() / "apt" / key
    for sub in ("lists/partial", "cache/archives/partial"):
        (folder / sub).mkdir(parents=True, exist_ok=True)
    site = golang.debian_site()
    source = folder / "sources.list"
    source.write_text("".join(f"deb [signed-by={KEY}] {site} {suite} main\n"
                              for suite in suites))
    (folder / "status").write_text("")
    return ["-o", f"Dir::Etc::SourceList={source}",
            "-o", "Dir::Etc::SourceParts=/dev/null",
            "-o", f"Dir::State::Lists={folder}/lists",
            "-o", f"Dir::State::Status={folder}/status",
            "-o", f"Dir::Cache={folder}/cache",
            "-o", "APT::Sandbox::User=root"]


def _fetch(names: list[str], options: list[str], into: pathlib.Path) -> None:
    """Downloads and unpacks packages, whole or not at all."""
    fresh = into.with_name(into.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    downloads = fresh / "debs"
    downloads.mkdir(parents=True)
    must_run(["apt-get", "-q", *options, "download", *names],
             "fetching " + " ".join(names), cwd=downloads,
             quiet_log=paths.logs() / "guest.log")
    for deb in downloads.glob("*.deb"):
        must_run(["dpkg-deb", "-x", deb, fresh], f"unpacking {deb.name}",
                 quiet_log=paths.logs() / "guest.log")
    shutil.rmtree(downloads)
    shutil.rmtree(into, ignore_errors=True)
    fresh.rename(into)


@contextlib.contextmanager
def _alone():
    """One process fetches, who starts meanwhile waits and finds it there."""
    with open(home() / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def parts(series: str) -> tuple[pathlib.Path, pathlib.Path, pathlib.Path]:
    """QEMU, the kernel and its module tree."""
    with _alone():
        root = kernel(series)
        return qemu(), root, modules(root)


def qemu() -> pathlib.Path:
    root = home() / "qemu"
    if not root.is_dir():
        with Step("fetching QEMU 10"):
            options = _options(("bookworm", "bookworm-backports"), "qemu")
            packages.apt(["update"], "apt-get update (guest)", options)
            suite = ["-o", "APT::Default-Release=bookworm-backports"]
            _fetch(["qemu-system-x86", "qemu-system-common", "qemu-system-data",
                    "seabios"], options + suite, root)
    return root


def _kernel_package(series: str, options: list[str]) -> str:
    text = subprocess.run(
        ["apt-cache", *options, "search", "--names-only",
         rf"^linux-image-{series.replace('.', '[.]')}[.][0-9].*amd64(-unsigned)?$"],
        capture_output=True, text=True, check=True).stdout
    names = [line.split()[0] for line in text.splitlines()]
    plain = [name for name in names
             if not any(word in name for word in ("cloud", "rt-", "dbg"))]
    if not plain:
        # Debian 12's own series carries its ABI number instead of 6.1.N.
        text = subprocess.run(
            ["apt-cache", *options, "search", "--names-only",
             rf"^linux-image-{series.replace('.', '[.]')}.*amd64(-unsigned)?$"],
            capture_output=True, text=True, check=True).stdout
        plain = [line.split()[0] for line in text.splitlines()
                 if not any(w in line.split()[0] for w in ("cloud", "rt-", "dbg"))]
    if not plain:
        raise DevError(f"Debian carries no kernel {series} any more; "
                       f"there are {', '.join(KERNEL_SUITES)}: see .dev/guest_parts.py")
    unsigned = [name for name in plain if name.endswith("-unsigned")]
    return sorted(unsigned or plain, key=_version_key)[-1]


def _version_key(name: str) -> list[int]:
    digits = "".join(c if c.isdigit() else " " for c in name)
    return [int(word) for word in digits.split()]


def kernel(series: str) -> pathlib.Path:
    """The unpacked kernel: boot/, lib/modules/, and vmlinux beside them."""
    root = home() / f"kernel-{series}"
    if not root.is_dir():
        with Step(f"fetching kernel {series}"):
            suite = KERNEL_SUITES[series]
            options = _options((suite,), suite)
            packages.apt(["update"], "apt-get update (guest)", options)
            _fetch([_kernel_package(series, options)], options, root)
    if not (root / "vmlinux").exists():
        _extract_vmlinux(next((root / "boot").glob("vmlinuz-*")), root / "vmlinux")
    return root


def modules(kernel_root: pathlib.Path) -> pathlib.Path:
    for base in (kernel_root, kernel_root / "usr"):
        for folder in base.glob("lib/modules/*"):
            if not (folder / "modules.dep").exists():
                must_run(["/sbin/depmod", "-b", base, folder.name], "depmod",
                         quiet_log=paths.logs() / "guest.log")
            return folder
    raise DevError(f"{kernel_root} has no module tree")


def _extract_vmlinux(image: pathlib.Path, out: pathlib.Path) -> None:
    """An uncompressed kernel boots faster than one that unpacks itself under
    emulation."""
    data = image.read_bytes()
    for magic, unpack in ((b"\xfd7zXZ\x00", _unxz), (b"\x28\xb5\x2f\xfd", _unzstd)):
        at = data.find(magic)
        while at >= 0:
            raw = unpack(data[at:])
            if raw[:4] == b"\x7fELF":
                out.write_bytes(raw)
                return
            at = data.find(magic, at + 1)
    raise DevError(f"{image}: found no xz or zstd compressed ELF inside")


def _unxz(data: bytes) -> bytes:
    try:
        return lzma.LZMADecompressor(lzma.FORMAT_XZ).decompress(data)
    except lzma.LZMAError:
        return b""


def _unzstd(data: bytes) -> bytes:
    return subprocess.run(["zstd", "-dc"], input=data, capture_output=True).stdout


def initramfs(kernel_root: pathlib.Path, start: str) -> bytes:
    tree = modules(kernel_root)
    order: list[str] = []
    needs = {}
    for line in (tree / "modules.dep").read_text().splitlines():
        name, _, rest = line.partition(":")
        needs[name] = rest.split()
    by_stem = {pathlib.Path(name).name.split(".ko")[0]: name for name in needs}

    def add(name: str) -> None:
        for need in reversed(needs[name]):
            add(need)
        if name not in order:
            order.append(name)

    for stem in INITRAMFS_MODULES:
        if stem in by_stem:  # otherwise built in
            add(by_stem[stem])
    archive = _Cpio()
    for folder in ("bin", "dev", "proc", "sys", "modules"):
        archive.add(folder, b"", stat.S_IFDIR | 0o755)
    archive.add("init", INIT.encode(), stat.S_IFREG | 0o755)
    archive.add("start", start.encode(), stat.S_IFREG | 0o755)
    archive.add("bin/busybox", pathlib.Path("/bin/busybox").read_bytes(),
                stat.S_IFREG | 0o755)
    names = []
    for name in order:
        data = (tree / name).read_bytes()
        if name.endswith(".xz"):
            data = lzma.decompress(data)
        names.append(pathlib.Path(name).name.removesuffix(".xz"))
        archive.add(f"modules/{names[-1]}", data, stat.S_IFREG | 0o644)
    archive.add("modules/order", "\n".join(names).encode(), stat.S_IFREG | 0o644)
    return archive.finish()


class _Cpio:
    """The "newc" format of the kernel's initramfs."""

    def __init__(self):
        self._bytes = bytearray()
        self._inode = 0

    def add(self, name: str, data: bytes, mode: int) -> None:
        self._inode += 1
        encoded = name.encode() + b"\0"
        fields = (self._inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0,
                  len(encoded), 0)
        self._bytes += b"070701" + b"".join(b"%08X" % f for f in fields) + encoded
        self._pad()
        self._bytes += data
        self._pad()

    def _pad(self) -> None:
        self._bytes += bytes(-len(self._bytes) % 4)

    def finish(self) -> bytes:
        self.add("TRAILER!!!", b"", 0)
        return bytes(self._bytes)
