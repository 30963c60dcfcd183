"""The connections of the gRPC port: how many there are, what they hold, and how to drop one.

gRPC's Python API knows calls only. It cannot cap connections, tell how much of a message has
arrived, or cancel a call whose caller does not read. The operating system can: the sockets are
among the process's files, each with the address of its peer, and Linux counts the bytes that came.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
import sys
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import unquote

# Where `tcpi_bytes_received` is in Linux's `struct tcp_info`.
_RECEIVED = struct.Struct("@128xQ")
_FILES = "/dev/fd"
_NO_DESCRIPTOR = {errno.EMFILE, errno.ENFILE}


@dataclass(frozen=True, slots=True)
class Connection:
    """A connection to the port.

    Attributes:
        peer: Address of the other side, as `host:port`.
        number: File descriptor; the system may give it to another file at any moment.
        inode: Tells that from this connection.
    """

    peer: str
    number: int
    inode: int

    def received(self) -> int:
        """Return the bytes that have come since it was opened; 0 if the system does not count."""
        if sys.platform != "linux":
            return 0
        try:
            with socket.socket(fileno=os.dup(self.number)) as copy:
                info = copy.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _RECEIVED.size)
        except OSError:
            return 0
        return int(_RECEIVED.unpack(info)[0]) if len(info) == _RECEIVED.size else 0

    def drop(self) -> None:
        """End it; gRPC sees it as closed by its peer, and frees what it held."""
        # An error: it is closed meanwhile, or another file.
        with suppress(OSError), socket.socket(fileno=os.dup(self.number)) as copy:
            if os.fstat(copy.fileno()).st_ino == self.inode:
                copy.shutdown(socket.SHUT_RDWR)


class ConnectionFinder:
    """Finds the connections to one port; remembers what it has seen, so that it looks once."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._known: dict[int, tuple[int, Connection | None]] = {}

    def find(self) -> list[Connection]:
        """Return the connections, those found first coming first.

        Raises OSError if no file descriptor is free.
        """
        seen: dict[int, tuple[int, Connection | None]] = {}
        files = self._sockets()
        for number in [*self._known, *(files.keys() - self._known.keys())]:
            if number not in files:
                continue
            inode = files[number]
            known = self._known.get(number)
            if known is None or known[0] != inode:
                known = inode, self._connection(number, inode)
            seen[number] = known
        self._known = seen
        return [connection for _, connection in seen.values() if connection is not None]

    def _sockets(self) -> dict[int, int]:
        """Return the inodes of all sockets of the process by their file descriptors."""
        found = {}
        for name in os.listdir(_FILES):
            with suppress(OSError):  # closed meanwhile, like the list's own
                status = os.fstat(int(name))
                if stat.S_ISSOCK(status.st_mode):
                    found[int(name)] = status.st_ino
        return found

    def _connection(self, number: int, inode: int) -> Connection | None:
        try:
            with socket.socket(fileno=os.dup(number)) as copy:
                if copy.family not in (socket.AF_INET, socket.AF_INET6):
                    return None
                if copy.getsockname()[1] != self._port:
                    return None
                host, port = copy.getpeername()[:2]  # fails for the listening socket
        except OSError as error:
            if error.errno in _NO_DESCRIPTOR:
                raise  # that says nothing about the file
            return None
        return Connection(_address(host, port), number, inode)


def peer_address(peer: str) -> str:
    """Return gRPC's name of a peer as `host:port`."""
    return unquote(peer.partition(":")[2])


def _address(host: str, port: int) -> str:
    host = host.removeprefix("::ffff:")  # IPv4 on a socket for both
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
