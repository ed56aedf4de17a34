"""tshark as judge: it decrypts a capture with the agent's key log, sharing no
code with Espalier, and says of each packet whether its ICV is right."""

import dataclasses
import os
import pathlib
import re
import shutil
import subprocess

from lab import LabError

TABLES = ("ikev2_decryption_table", "esp_sa")


def installed() -> bool:
    return shutil.which("tshark") is not None


@dataclasses.dataclass
class Verdict:
    ike_good: int = 0
    ike_bad: int = 0
    ike_unread: int = 0  # encrypted payloads without a key
    esp_good: int = 0
    esp_bad: int = 0
    esp_unread: int = 0
    inner: int = 0  # ICMP inside ESP


_ICV = re.compile(r"^\s+Integrity Checksum Data: .*\[(\w+)")


def judge(capture: pathlib.Path, key_log: pathlib.Path, folder: pathlib.Path) -> Verdict:
    """folder: a new one, for Wireshark's configuration."""
    folder.mkdir()
    for name in TABLES:
        shutil.copy(key_log / name, folder / name)
    text = _run(capture, folder, ["-V", "-Y", "isakmp || esp"])
    verdict = Verdict()
    for frame in re.split(r"(?m)^(?=Frame \d+: )", text):
        _judge_ike(frame, verdict)
    fields = _run(capture, folder, [
        "-Y", "esp", "-T", "fields", "-e", "esp.spi", "-e", "esp.icv_good",
        "-e", "esp.icv_bad", "-e", "icmp.type"])
    for line in fields.splitlines():
        _, good, bad, inner = (line.split("\t") + ["", "", "", ""])[:4]
        if bad == "1":
            verdict.esp_bad += 1
        elif good == "1":
            verdict.esp_good += 1
            verdict.inner += inner != ""
        else:
            verdict.esp_unread += 1
    return verdict


def _judge_ike(frame: str, verdict: Verdict) -> None:
    if "Payload: Encrypted" not in frame:
        return
    found = [match[1] for line in frame.splitlines() if (match := _ICV.match(line))]
    if not found:
        verdict.ike_unread += 1
    for word in found:
        if word == "correct":
            verdict.ike_good += 1
        else:
            verdict.ike_bad += 1


def _run(capture: pathlib.Path, folder: pathlib.Path, words: list[str]) -> str:
    result = subprocess.run(
        ["tshark", "-n", "-r", str(capture),
         "-o", "esp.enable_encryption_decode:TRUE",
         "-o", "esp.enable_authentication_check:TRUE", *words],
        capture_output=True, text=True, timeout=120,
        env={**os.environ, "WIRESHARK_CONFIG_DIR": str(folder)})
    if result.returncode != 0:
        raise LabError(f"tshark: {result.stderr.strip()}")
    return result.stdout


def spoil_keys(key_log: pathlib.Path, to: pathlib.Path) -> None:
    """The negative control: a copy of the key log in which every key differs
    in its first digit. SPIs, which are shorter, stay."""
    to.mkdir()

    def other(match: re.Match) -> str:
        return match[1] + ("1" if match[2] == "0" else "0") + match[3]

    for name in TABLES:
        text = (key_log / name).read_text()
        (to / name).write_text(
            re.sub(r'((?:^|[,"])(?:0x)?)([0-9a-f])([0-9a-f]{31,})(?=[,"])', other, text))
