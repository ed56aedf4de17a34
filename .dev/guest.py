"""A virtual machine with a Debian kernel, whose root is a copy-on-write view
of this machine's own: for kernel ESP, which this machine's kernel may lack.

Programs built here run there unmodified; what they write is gone afterwards.
One boot takes seconds even without /dev/kvm. The guest's death is a failure:
the exit status travels over a serial port of its own, and no status there
means that the guest died."""

import os
import pathlib
import subprocess
import tempfile

from console import DevError
import guest_parts
import packages
import paths

DEFAULT_KERNEL = "6.12"

START = """#!/bin/bash
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mount -t proc proc /proc
mount -t sysfs sys /sys
# A checkout below one of these stays in sight.
mkdir -p /.checkout && mount --bind {root} /.checkout
for fs in tmpfs:/run tmpfs:/tmp tmpfs:/dev/shm devpts:/dev/pts cgroup2:/sys/fs/cgroup bpf:/sys/fs/bpf \\
          tmpfs:/var/lib/espalier; do
  mkdir -p "${{fs#*:}}"; mount -t "${{fs%%:*}}" "${{fs%%:*}}" "${{fs#*:}}"
done
mkdir -p {root} && mount --move /.checkout {root}
mkdir -p /run/netns "/lib/modules/$(uname -r)"
mount --bind {modules} "/lib/modules/$(uname -r)"
ln -sf /proc/self/fd /dev/fd; ln -sf /proc/self/fd/0 /dev/stdin
ln -sf /proc/self/fd/1 /dev/stdout; ln -sf /proc/self/fd/2 /dev/stderr
# Nobody opens /dev/net/tun before it is there.
modprobe tun
ip link set lo up
echo 0 > /proc/sys/kernel/printk
cd {cwd}
exec </dev/null
# The host's own runs keep their records in its cache.
export XDG_CACHE_HOME=/tmp/cache
export {environment}
timeout -k 5 {seconds} bash -c {command}
echo $? >/dev/ttyS1
sync
echo o >/proc/sysrq-trigger
sleep 30
"""

# Emulation even where /dev/kvm exists: nested ones were seen to crash the guest
# (no cmpxchg16b), and every machine then runs the same. The flags were measured
# to matter for speed or stability.
MACHINE = ["-machine", "q35", "-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max",
           "-nodefaults", "-no-user-config",
           "-display", "none", "-no-reboot"]
COMMAND_LINE = ("console=ttyS0 quiet panic=-1 mitigations=off nokaslr "
                "random.trust_cpu=on clocksource=hpet tsc=reliable no_timer_check "
                "rcupdate.rcu_expedited=1 rdinit=/init")


def _quote(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def run(command: str, kernel: str = DEFAULT_KERNEL, cpus: int = 1,
        memory: int = 2048, seconds: int = 600) -> int:
    """Runs a shell command in the guest; its output is shown, its exit status
    returned. DevError when the guest died or hung."""
    packages.ensure(["guest"])
    qemu_root, kernel_root, module_tree = guest_parts.parts(kernel)
    environment = f"PYTHONDONTWRITEBYTECODE=1 ESPALIER_GUEST={kernel}" + "".join(
        f" {name}={_quote(os.environ[name])}"
        for name in ("ESPALIER_BIN_DIR", "ESPALIER_DATAPATH", "ESPALIER_ROUTING",
                     "ESPALIER_AGENT_AWAY", "PYTHONPATH", "CI") if name in os.environ)
    start = START.format(
        modules=_quote(str(module_tree)),
        root=_quote(str(paths.ROOT)), cwd=_quote(os.getcwd()),
        environment=environment, command=_quote(command), seconds=seconds)
    with tempfile.TemporaryDirectory(prefix="espalier-guest-") as folder:
        initramfs = pathlib.Path(folder, "initramfs")
        initramfs.write_bytes(guest_parts.initramfs(kernel_root, start))
        status = pathlib.Path(folder, "status")
        arguments = [
            # Ends with its parent, however that ends.
            "setpriv", "--pdeathsig", "KILL", qemu_root / "usr/bin/qemu-system-x86_64", *MACHINE,
            "-L", qemu_root / "usr/share/qemu", "-L", qemu_root / "usr/share/seabios",
            "-smp", str(cpus), "-m", str(memory),
            "-kernel", kernel_root / "vmlinux", "-initrd", initramfs,
            "-append", COMMAND_LINE,
            "-serial", "stdio", "-serial", f"file:{status}",
            "-fsdev", "local,id=host,path=/,security_model=none,readonly=on,multidevs=remap",
            "-device", "virtio-9p-pci,fsdev=host,mount_tag=host"]
        try:
            subprocess.run([str(word) for word in arguments], stdin=subprocess.DEVNULL,
                           timeout=seconds + 120)
        except subprocess.TimeoutExpired:
            raise DevError(f"the guest hung for {seconds + 120} s and was ended") from None
        text = status.read_text().strip() if status.exists() else ""
    if not text.isdigit():
        raise DevError("the guest died: it left no exit status. Its console is above; "
                       f"parts are in {guest_parts.home()}")
    return int(text)
