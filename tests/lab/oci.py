"""OCI image archives of one layer, written without a registry or a daemon:
`ctr images import` reads them."""

import dataclasses
import gzip
import hashlib
import io
import json
import os
import pathlib
import tarfile

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclasses.dataclass
class Image:
    """name: with its tag. What is written depends on nothing but these values:
    the same layer is the same image."""
    name: str
    entrypoint: list[str]
    environment: list[str] = dataclasses.field(default_factory=lambda: ["PATH=/bin:/usr/bin"])
    labels: dict[str, str] = dataclasses.field(default_factory=dict)


def add(archive: tarfile.TarFile, name: str, data: bytes = b"", *, mode: int = 0o644,
        link: str = "", folder: bool = False) -> None:
    entry = tarfile.TarInfo(name)
    entry.mode = mode
    entry.size = len(data)
    if link:
        entry.type, entry.linkname = tarfile.SYMTYPE, link
    elif folder:
        entry.type, entry.mode = tarfile.DIRTYPE, 0o755
    archive.addfile(entry, io.BytesIO(data))


def write(path: pathlib.Path, image: Image, layer: bytes, *, compress: bool = True) -> str:
    """layer: a tar archive; not compressed, it is smaller work for what is only
    unpacked again here. Returns the manifest's digest."""
    blobs = {}

    def blob(data: bytes, media: str) -> dict:
        digest = hashlib.sha256(data).hexdigest()
        blobs[digest] = data
        return {"mediaType": f"application/vnd.oci.image.{media}",
                "digest": f"sha256:{digest}", "size": len(data)}

    config = blob(json.dumps({
        "architecture": ARCHITECTURES[os.uname().machine],
        "os": "linux",
        "config": {"Entrypoint": image.entrypoint, "Env": image.environment,
                   "Labels": image.labels},
        "rootfs": {"type": "layers",
                   "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }).encode(), "config.v1+json")
    manifest = blob(json.dumps({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config,
        "layers": [blob(gzip.compress(layer, 5, mtime=0), "layer.v1.tar+gzip") if compress
                   else blob(layer, "layer.v1.tar")],
    }).encode(), "manifest.v1+json")
    manifest["annotations"] = {
        "io.containerd.image.name": image.name,
        "org.opencontainers.image.ref.name": image.name.rpartition(":")[2]}
    with tarfile.open(path, "w") as archive:
        add(archive, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        add(archive, "index.json", json.dumps(
            {"schemaVersion": 2, "manifests": [manifest]}).encode())
        for digest, data in sorted(blobs.items()):
            add(archive, f"blobs/sha256/{digest}", data)
    return manifest["digest"]
