"""Includes point one way (docs/design.md, "who may know whom"), and no source
file outgrows one subject. The self-tests show that each rule can fail."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]
MAX_LINES = 800
PROTO = "proto/espalier"

# Folder: what its files may include besides themselves. What is not listed
# may not exist.
ALLOWED = {
    # Shared with the eBPF programs: C, no more than types and constants.
    "bpf": set(),
    "agent/base": {"bpf"},
    "agent/wire": {"agent/base"},
    "agent/ike": {"agent/base", "agent/wire", "agent/crypto"},
    "agent/crypto": {"agent/base"},
    "agent/esp": {"agent/base", "agent/crypto"},
    "agent/netlink": {"agent/base"},
    # datapath/user speaks espd's control protocol.
    "agent/datapath": {"agent/base", "agent/netlink", "agent/esp"},
    "agent/network": {"agent/base", "agent/netlink"},
    "agent/guard": {"agent/base", "agent/netlink", "bpf"},
    "agent/ipam": {"agent/base"},
    "agent/pods": {
        "agent/base", "agent/netlink", "agent/network", "agent/ipam", PROTO},
    "agent/kube": {"agent/base"},
    "agent/mesh": {
        "agent/base", "agent/netlink", "agent/datapath", "agent/network",
        "agent/guard", "agent/ike", "agent/crypto", "agent/ipam", "agent/kube"},
    "agent/service": {
        "agent/base", "agent/ike", "agent/datapath", "agent/network", "agent/ipam",
        "agent/pods", "agent/mesh", "agent/guard", "agent/kube", PROTO},
    "agent/runtime": {
        "agent/base", "agent/wire", "agent/crypto", "agent/ike", "agent/datapath",
        "agent/esp"},
    "agent/controller": {
        "agent/base", "agent/crypto", "agent/kube", "agent/runtime", "agent/service"},
    "agent/kubectl": {"agent/base", PROTO},
    "cni": {"agent/base", PROTO},
}
SEES_ALL = ("agent/main", "tests")
INCLUDE = re.compile(r'^\s*#\s*include\s+["<]((?:agent|cni|proto|bpf|espalier)/[^">]+)[">]')
SYSTEM = re.compile(r'^\s*#\s*include\s+["<]([^">]+)[">]')
# A library that only these folders may use.
ONLY_HERE = {
    "openssl/": ("agent/crypto", "agent/base", "tests"),
    "uv.h": ("agent/runtime", "agent/main", "tests"),
    "libmnl/": ("agent/netlink", "agent/esp", "tests"),
    # agent/kube: kubeconfig files are YAML.
    "yaml-cpp/": ("agent/mesh", "agent/main", "agent/kube", "tests"),
    "curl/": ("agent/kube", "tests"),
}


def folder_of(path: str) -> str:
    """agent/ike/child/x.h belongs to agent/ike, cni/x.h to cni."""
    parts = path.split("/")
    if path.startswith(("proto/", "espalier/")):
        return PROTO
    return "/".join(parts[:2]) if parts[0] == "agent" else parts[0]


def wrong_includes(path: str, text: str) -> list[str]:
    folder = folder_of(path)
    if folder.startswith(SEES_ALL):
        return []
    findings = []
    for number, line in enumerate(text.splitlines(), 1):
        match = INCLUDE.match(line)
        if match:
            target = folder_of(match[1])
            if target == folder:
                continue
            if folder not in ALLOWED:
                findings.append(f"{path}:{number}: {folder} is not in the table")
            elif target not in ALLOWED[folder]:
                findings.append(f"{path}:{number}: {folder} may not include {match[1]}")
            continue
        match = SYSTEM.match(line)
        for prefix, homes in ONLY_HERE.items():
            if match and match[1].startswith(prefix) and folder not in homes:
                findings.append(f"{path}:{number}: {folder} may not use {match[1]}")
    return findings


def too_long(path: str, text: str) -> list[str]:
    lines = text.count("\n")
    return [f"{path}: {lines} lines, more than {MAX_LINES}"] if lines > MAX_LINES else []


def sources() -> dict[str, str]:
    found = {}
    for top in ("agent", "cni", "bpf", "tests"):
        for file in sorted((ROOT / top).rglob("*")):
            if file.suffix in (".h", ".cc", ".c", ".py"):
                found[str(file.relative_to(ROOT))] = file.read_text()
    return found


def test_includes_point_one_way():
    files = sources()
    assert len(files) > 20, "the sources were not found"
    findings = [f for path, text in files.items() for f in wrong_includes(path, text)]
    assert not findings, "\n".join(findings)


def test_no_file_is_too_long():
    findings = [f for path, text in sources().items() for f in too_long(path, text)]
    assert not findings, "\n".join(findings)


def test_every_folder_is_known():
    folders = {folder_of(path) for path in sources()}
    unknown = {f for f in folders if f not in ALLOWED and not f.startswith(SEES_ALL)}
    assert not unknown, f"add to the table: {unknown}"


@pytest.mark.parametrize("path,line", [
    ("agent/base/bytes.h", '#include "agent/wire/message.h"'),
    ("agent/wire/message.cc", '#include "agent/crypto/aead.h"'),
    ("agent/ike/core.cc", '#include "agent/runtime/loop.h"'),
    ("agent/ike/core.cc", "#include <openssl/evp.h>"),
    ("agent/mesh/mesh.cc", "#include <curl/curl.h>"),
    ("agent/ike/window/window.cc", '  #  include "agent/netlink/socket.h"'),
    ("cni/main.cc", '#include "agent/ipam/allocator.h"'),
    ("agent/datapath/tracker.cc", '#include "agent/mesh/reconcile.h"'),
    ("agent/nowhere/a.cc", '#include "agent/base/bytes.h"'),
])
def test_a_wrong_include_is_found(path, line):
    assert wrong_includes(path, f"// comment\n{line}\n")


@pytest.mark.parametrize("path,line", [
    ("agent/wire/message.cc", '#include "agent/base/bytes.h"'),
    ("agent/ike/core.cc", '#include "agent/ike/window/window.h"'),
    ("agent/ike/core.cc", '#include "agent/crypto/job.h"'),
    ("agent/main/main.cc", '#include "agent/runtime/loop.h"'),
    ("agent/crypto/aead.cc", "#include <openssl/evp.h>"),
    ("cni/main.cc", '#include "espalier/v1/cni.pb.h"'),
])
def test_a_right_include_is_not(path, line):
    assert not wrong_includes(path, line)


def test_a_long_file_is_found():
    assert too_long("agent/x.cc", "\n" * (MAX_LINES + 1))
    assert not too_long("agent/x.cc", "\n" * MAX_LINES)
