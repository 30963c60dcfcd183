"""A client that does what no gRPC library does: it stops in a message, and shows all trailers."""

from __future__ import annotations

import socket
import struct
from types import TracebackType
from typing import Self

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 4, 6, 7, 8
_ACK = END_STREAM = 1
_END_HEADERS = 4
_MAX_FRAME = 16_384
_FIRST_WINDOW = 65_535
# gRPC's own setting: send binary metadata as it is, not as base64.
_TRUE_BINARY = struct.pack(">HI", 0xFE03, 1)


def _string(text: str) -> bytes:
    assert len(text) < 127
    return bytes([len(text)]) + text.encode()


def _literal(name: str, value: str) -> bytes:
    """A header field without indexing (RFC 7541, 6.2.2)."""
    return b"\0" + _string(name) + _string(value)


class RawConnection:
    """One connection; its streams have odd numbers from 1."""

    def __init__(self, address: str) -> None:
        host, port = address.rsplit(":", 1)
        self._socket = socket.create_connection((host, int(port)), timeout=20)
        self._send(_PREFACE + self._frame(_SETTINGS, 0, 0, _TRUE_BINARY))
        self._windows = {0: _FIRST_WINDOW}
        self._first_window = _FIRST_WINDOW

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.close()

    def open(self, stream: int, path: str, timeout: str = "") -> None:
        """Begin a call, with gRPC's form of a timeout if any."""
        fields = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "x"}
        fields |= {"content-type": "application/grpc", "te": "trailers"}
        if timeout:
            fields["grpc-timeout"] = timeout
        block = b"".join(_literal(name, value) for name, value in fields.items())
        self._send(self._frame(_HEADERS, _END_HEADERS, stream, block))
        self._windows[stream] = self._first_window

    def begin_message(self, stream: int, length: int) -> None:
        """Announce a message of that many bytes."""
        self.send_bytes(stream, b"\0" + struct.pack(">I", length))

    def send_bytes(self, stream: int, data: bytes) -> None:
        """Send bytes as far as the server takes them, waiting for it."""
        while data:
            room = min(self._windows[0], self._windows[stream], _MAX_FRAME, len(data))
            if room <= 0:
                self._read_frame()
                continue
            self._send(self._frame(_DATA, 0, stream, data[:room]))
            self._windows[0] -= room
            self._windows[stream] -= room
            data = data[room:]

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes) -> bytes:
        return (
            struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload
        )

    def _send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = self._socket.recv(count - len(data))
            if not more:
                raise ConnectionResetError("the server has closed the connection")
            data += more
        return data

    def _read_frame(self) -> tuple[int, int, bytes]:
        head = self._exactly(9)
        length = int.from_bytes(head[:3], "big")
        kind, flags, stream = struct.unpack(">BBI", head[3:])
        payload = self._exactly(length)
        if kind == _SETTINGS and not flags & _ACK:
            for at in range(0, length, 6):
                key, value = struct.unpack_from(">HI", payload, at)
                if key == 4:  # SETTINGS_INITIAL_WINDOW_SIZE
                    for open_stream in self._windows.keys() - {0}:
                        self._windows[open_stream] += value - self._first_window
                    self._first_window = value
            self._send(self._frame(_SETTINGS, _ACK, 0, b""))
        elif kind == _PING and not flags & _ACK:
            self._send(self._frame(_PING, _ACK, 0, payload))
        elif kind == _WINDOW_UPDATE:
            self._windows[stream] = self._windows.get(stream, 0) + struct.unpack(">I", payload)[0]
        return kind, flags, payload

    def ping(self) -> None:
        """Ping and wait for the answer; ConnectionResetError if the server ends the connection."""
        self._send(self._frame(_PING, 0, 0, bytes(8)))
        while True:
            kind, flags, payload = self._read_frame()
            if kind == _GOAWAY:
                raise ConnectionResetError(payload[8:].decode())  # why
            if kind == _PING and flags & _ACK:
                return

    def next_end(self) -> bytes:
        """Wait for the end of any call; return its trailers, in which a new text is readable.

        gRPC's core sends texts without Huffman coding, and one that it has sent as a number.
        """
        while True:
            kind, flags, payload = self._read_frame()
            if kind == _HEADERS and flags & END_STREAM:
                return payload


def binary_trailer(trailers: bytes, name: str) -> bytes:
    """Return the value of a binary trailer in what `next_end` returned; KeyError if it has none."""
    _, found, rest = trailers.partition(_string(name))
    if not found:
        raise KeyError(name)
    length, zero = rest[0], rest[1]
    assert zero == 0  # before what is not base64
    return rest[2 : 1 + length]
