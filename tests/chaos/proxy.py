"""A TCP proxy whose connections can be cut, delayed, or left half-open."""

from __future__ import annotations

import asyncio
import enum
import random
import socket
from contextlib import suppress

_CHUNK_BYTES = 64 * 1024
_PORTS = range(20_000, 32_000)
_given: set[int] = set()


class LinkState(enum.Enum):
    """What a link does with its connections."""

    OPEN = "open"
    CUT = "cut"  # connections break, new ones are refused
    DELAYED = "delayed"  # every chunk waits
    HALF_OPEN = "half-open"  # connections stay, and nothing passes


class Link:
    """Forwards a fixed port of this machine to another one. Use from one event loop.

    Attributes:
        port: The port that it listens on.
        target: The port that it forwards to.
    """

    def __init__(self, name: str, target: int) -> None:
        self.name = name
        self.port = fixed_port()
        self.target = target
        self._state = LinkState.OPEN
        self._delay_s = 0.0
        self._writers: set[asyncio.StreamWriter] = set()
        self._pumps: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._server: asyncio.Server | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)

    async def close(self) -> None:
        """End all connections."""
        if self._server is not None:
            self._server.close()
        self._break_all()
        for pump in list(self._pumps):
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    def fail(self, state: LinkState, delay_s: float = 0.0) -> None:
        """Begin a fault."""
        self._state, self._delay_s = state, delay_s
        if state is LinkState.CUT:
            self._break_all()
        if state is LinkState.HALF_OPEN:
            self._flowing.clear()

    def mend(self) -> None:
        """End the fault. Connections that were half-open break, as they do in the end."""
        if self._state is LinkState.HALF_OPEN:
            self._break_all()
        self._state, self._delay_s = LinkState.OPEN, 0.0
        self._flowing.set()

    def _break_all(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._state is LinkState.CUT:
            writer.transport.abort()
            return
        self._writers.add(writer)
        try:
            await self._flowing.wait()
            there, back = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:  # nobody listens
            self._writers.discard(writer)
            writer.transport.abort()
            return
        self._writers.add(back)
        pumps = [
            asyncio.create_task(self._pump(reader, back)),
            asyncio.create_task(self._pump(there, writer)),
        ]
        self._pumps.update(pumps)
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for each in (writer, back):
            each.close()
            self._writers.discard(each)
        await asyncio.gather(*pumps, return_exceptions=True)
        self._pumps.difference_update(pumps)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):  # broken, by us or by one of its ends
            while data := await reader.read(_CHUNK_BYTES):
                if self._delay_s:
                    await asyncio.sleep(self._delay_s)
                await self._flowing.wait()
                if writer.is_closing():
                    return
                writer.write(data)
                await writer.drain()


def fixed_port() -> int:
    """Return a port that stays free while its server is down: below those the system hands out."""
    while True:
        port = random.SystemRandom().choice(_PORTS)
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            if port not in _given:
                _given.add(port)
                return port
