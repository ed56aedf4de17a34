"""What the eBPF maps pinned in a folder hold, read by libbpf."""

import ctypes
import os
import pathlib

from lab.errors import LabError

LIBRARY = "libbpf.so.1"
HASH, LPM_TRIE = 1, 11  # enum bpf_map_type


class _Info(ctypes.Structure):
    """The beginning of struct bpf_map_info (linux/bpf.h)."""
    _fields_ = [("type", ctypes.c_uint32), ("id", ctypes.c_uint32),
                ("key_size", ctypes.c_uint32)]


def entries(folder: pathlib.Path) -> dict[str, int]:
    """How many, by the map's name. Only maps whose entries are made and taken away
    one by one: not arrays, nor what the kernel itself forgets."""
    library = ctypes.CDLL(LIBRARY, use_errno=True)
    found = {}
    for path in folder.iterdir():
        if path.is_dir():
            continue
        fd = library.bpf_obj_get(os.fsencode(path))
        if fd < 0:
            raise LabError(f"{path}: {os.strerror(ctypes.get_errno())}")
        try:
            info, size = _Info(), ctypes.c_uint32(ctypes.sizeof(_Info))
            library.bpf_obj_get_info_by_fd(fd, ctypes.byref(info), ctypes.byref(size))
            if info.type in (HASH, LPM_TRIE):
                found[path.name] = _count(library, fd, info.key_size)
        finally:
            os.close(fd)
    return found


def _count(library: ctypes.CDLL, fd: int, key_size: int) -> int:
    count, key, after = 0, None, ctypes.create_string_buffer(key_size)
    while library.bpf_map_get_next_key(fd, key, after) == 0:
        count += 1
        key = ctypes.create_string_buffer(after.raw, key_size)
    return count
