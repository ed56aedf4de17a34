"""The image of the tests' pods: what people try a network with, from this
machine's own programs."""

import io
import pathlib
import re
import shutil
import subprocess
import tarfile

from lab import oci
from lab.errors import LabError

NAME = "localhost/espalier-test:1"
BUSYBOX = "/usr/bin/busybox"
# busybox is static: without the image's NSS modules its wget crashes on a name.
DYNAMIC = ("curl", "iperf3")
NOT_LINKED = {"busybox", "wget", "init"}


def _libraries(program: str) -> set[str]:
    text = subprocess.run(["ldd", program], capture_output=True, text=True).stdout
    return set(re.findall(r"(/\S+) \(0x", text))


def write_test_image(path: pathlib.Path) -> None:
    """The container stays up by itself: it sleeps."""
    programs = [shutil.which(name) for name in (BUSYBOX, *DYNAMIC)]
    if None in programs:
        raise LabError(f"one of {BUSYBOX} {' '.join(DYNAMIC)} is missing: apt-get install "
                       "busybox-static curl iperf3")
    files = set(programs[1:]).union(*map(_libraries, programs[1:]))
    applets = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True,
                             check=True).stdout.split()
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as archive:
        # Debian's merged /usr: /lib64/ld-linux is what the programs ask for.
        for name in ("bin", "etc", "www", "proc", "sys", "dev", "tmp", "run"):
            oci.add(archive, name, folder=True)
        oci.add(archive, "bin/busybox", pathlib.Path(BUSYBOX).read_bytes(), mode=0o755)
        for name in sorted(set(applets) - NOT_LINKED):
            oci.add(archive, f"bin/{name}", link="busybox")
        for name in sorted(files):
            oci.add(archive, name.lstrip("/"), pathlib.Path(name).read_bytes(), mode=0o755)
    oci.write(path, oci.Image(NAME, ["/bin/sleep", "1000000"]), layer.getvalue(),
              compress=False)
