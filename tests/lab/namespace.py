"""A network namespace, by a name that only this run has."""

import os
import pathlib
import subprocess

from lab.errors import LabError
from lab.process import Process
from lab.session import Lab, delete_namespace

# exec keeps the pid: stopping the process stops the program.
_OWN_RUN = 'mount -t tmpfs tmpfs /run && exec "$@"'
# SO_NETNS_COOKIE
_COOKIE = ("import socket, struct;"
           "print(struct.unpack('Q', socket.socket().getsockopt(1, 71, 8))[0])")


class Namespace:
    """own_run: programs see a /run of their own each (for daemons with fixed
    paths); it also hides /run/netns from them."""

    def __init__(self, lab: Lab, suffix: str, *, own_run: bool = False):
        self.lab = lab
        self.suffix = suffix
        self.name = lab.namespace_name(suffix)
        self.own_run = own_run
        lab.record_namespace(self.name)
        lab.on_close(lambda: delete_namespace(self.name))
        self._add()

    def _add(self) -> None:
        self._host(["ip", "netns", "add", self.name])
        self.run(["ip", "link", "set", "lo", "up"])

    @property
    def path(self) -> pathlib.Path:
        return pathlib.Path("/run/netns") / self.name

    def cookie(self) -> str:
        """The kernel's number for it, the same for as long as it lives."""
        return self.run(["/usr/bin/python3", "-c", _COOKIE]).stdout.strip()

    def delete(self) -> None:
        delete_namespace(self.name)

    def renew(self) -> None:
        """Another of the same name, as new, without uplinks."""
        self.delete()
        self._add()

    def command(self, command: list[str]) -> list[str]:
        """Prefixed so that it runs here. Not `ip netns exec`: it remounts /sys."""
        prefix = ["nsenter", f"--net={self.path}"]
        if self.own_run:
            prefix += ["unshare", "--mount", "--propagation", "private",
                       "sh", "-c", _OWN_RUN, "sh"]
        return [*prefix, *(str(word) for word in command)]

    def run(self, command: list[str], *, check: bool = True, timeout: float = 60,
            input: str | None = None, env: dict | None = None
            ) -> subprocess.CompletedProcess:
        return self._host(self.command(command), check=check, timeout=timeout,
                          input=input, env=env)

    def start(self, name: str, command: list[str], *, env=None, cwd=None,
              log=None) -> Process:
        return Process(self.lab, name, self.command(command), env=env, cwd=cwd, log=log)

    def sysctl(self, name: str, value: int | str) -> None:
        self.run(["sh", "-c", f"echo {value} > /proc/sys/{name.replace('.', '/')}"])

    def ping(self, address: str, *, count: int = 1, size: int | None = None,
             interval: float = 0.2, wait: int = 2) -> int:
        """How many answers came."""
        command = ["ping", "-n", "-q", "-c", count, "-i", interval, "-W", wait]
        if size is not None:
            command += ["-s", size, "-M", "do"]
        result = self.run([*command, address], check=False,
                          timeout=count * (interval + wait) + 10)
        for line in result.stdout.splitlines():
            if " received" in line:
                return int(line.split(",")[1].split()[0])
        raise LabError(f"ping {address} in {self.name}: {result.stderr.strip()}")

    def _host(self, command, *, check=True, timeout=60, input=None, env=None):
        command = [str(word) for word in command]
        try:
            result = subprocess.run(
                command, capture_output=True, text=True, timeout=timeout,
                input=input, env={**os.environ, **env} if env else None)
        except subprocess.TimeoutExpired:
            raise LabError(f"{' '.join(command)}: still running after {timeout} s") from None
        if check and result.returncode != 0:
            raise LabError(f"{' '.join(command)}: exit code {result.returncode}: "
                           f"{(result.stderr or result.stdout).strip()}")
        return result
