"""The few words of strongSwan's vici protocol that a benchmark needs: commands
over one connection, without a program started for each."""

import pathlib
import socket
import struct

_REQUEST, _RESPONSE = 0, 1
_SECTION_START, _SECTION_END, _KEY_VALUE = 1, 2, 3
_LIST_START, _LIST_ITEM, _LIST_END = 4, 5, 6


class Vici:
    def __init__(self, path: pathlib.Path):
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(30)
        self._socket.connect(str(path))

    def close(self) -> None:
        self._socket.close()

    def command(self, name: str, **values: str | int) -> dict:
        body = bytes([_REQUEST, len(name)]) + name.encode()
        for key, value in values.items():
            text = str(value).encode()
            body += bytes([_KEY_VALUE, len(key)]) + key.encode()
            body += struct.pack("!H", len(text)) + text
        self._socket.sendall(struct.pack("!I", len(body)) + body)
        answer = self._read(struct.unpack("!I", self._read(4))[0])
        if answer[0] != _RESPONSE:
            raise RuntimeError(f"vici command {name}: packet type {answer[0]}")
        return _parse(answer[1:])

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self._socket.recv(size - len(data))
            if not piece:
                raise RuntimeError("the daemon closed its vici socket")
            data += piece
        return data


def _parse(data: bytes) -> dict:
    """Sections as dicts, lists as lists of str."""
    root: dict = {}
    path, items, position = [root], None, 0

    def text(size_octets: int) -> str:
        nonlocal position
        size = int.from_bytes(data[position:position + size_octets], "big")
        position += size_octets + size
        return data[position - size:position].decode(errors="replace")

    while position < len(data):
        kind, position = data[position], position + 1
        if kind == _SECTION_START:
            path.append(path[-1].setdefault(text(1), {}))
        elif kind == _SECTION_END:
            path.pop()
        elif kind == _KEY_VALUE:
            key = text(1)
            path[-1][key] = text(2)
        elif kind == _LIST_START:
            items = path[-1].setdefault(text(1), [])
        elif kind == _LIST_ITEM:
            items.append(text(2))
        elif kind != _LIST_END:
            raise RuntimeError(f"vici element {kind} is unknown")
    return root
