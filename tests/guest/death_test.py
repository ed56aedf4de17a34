"""What becomes of a guest is told by its exit status, and a guest that dies has
none: a failure, never a skip."""

import pathlib
import subprocess

DEV = pathlib.Path(__file__).parents[2] / "dev"


def guest(command: str) -> subprocess.CompletedProcess:
    return subprocess.run([DEV, "guest", "--seconds", "120", command],
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, errors="replace", timeout=300)


def test_a_guest_that_dies_is_a_failure():
    result = guest("echo alive; echo c >/proc/sysrq-trigger; sleep 60")
    assert "alive" in result.stdout
    assert "the guest died: it left no exit status" in result.stdout
    assert result.returncode == 1


def test_a_commands_own_failure_is_its_status():
    result = guest("exit 3")
    assert "the guest died" not in result.stdout
    assert result.returncode == 3
