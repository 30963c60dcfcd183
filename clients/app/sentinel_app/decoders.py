"""Copies of images, decoded in two processes that stay, with limits on time and memory."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import suppress

from sentinel_app.previews import BREAKS_THE_DECODER, ImageRefused, Preview, check_size
from sentinel_app.uploads import MAX_IMAGE_BYTES
from sentinel_app.web import Slots

_MAX_PROCESSES = 2
# Tiles of some pages of photos; browsers ask again for what is refused.
_MAX_WAITING = 200
_MAX_SECONDS = 10.0
# A new process has no memory that decoders have lost.
_MAX_IMAGES = 500


class Decoders:
    """For one event loop. Use it as an asynchronous context manager."""

    def __init__(self) -> None:
        self._slots = Slots(_MAX_PROCESSES, _MAX_WAITING)
        self._idle: list[_Decoder] = []

    async def __aenter__(self) -> Decoders:
        return self

    async def __aexit__(self, *_: object) -> None:
        while self._idle:
            await self._idle.pop().end()

    async def preview(self, data: bytes, side: int, most: int = MAX_IMAGE_BYTES) -> Preview:
        """Return an upright copy of an image of at most `side` pixels a side.

        The file may have `most` bytes.

        Raises:
            ImageRefused: It is no image, is damaged, or costs too much.
            Refused: Too many images wait.
        """
        check_size(data, most)
        async with self._slots.slot():
            decoder = self._idle.pop() if self._idle else await _Decoder.start()
            whole = False
            try:
                found = await decoder.decode(data, side)
                whole = True
            # It may die: a decoder can crash, or use up its time.
            except (TimeoutError, OSError, ValueError, asyncio.IncompleteReadError) as error:
                raise ImageRefused(BREAKS_THE_DECODER) from error
            finally:
                if whole and decoder.images < _MAX_IMAGES:
                    self._idle.append(decoder)
                else:
                    await asyncio.shield(decoder.end())
        if isinstance(found, str):
            raise ImageRefused(found)
        return found


class _Decoder:
    """One process. It decodes one image at a time."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.images = 0

    @classmethod
    async def start(cls) -> _Decoder:
        pipe = asyncio.subprocess.PIPE
        command = [sys.executable, "-P", "-m", "sentinel_app.preview_process"]
        return cls(await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe))

    async def decode(self, data: bytes, side: int) -> Preview | str:
        """Return a copy, or why there is none. After an exception the process is of no use."""
        self.images += 1
        writer, reader = self._process.stdin, self._process.stdout
        assert writer is not None and reader is not None
        async with asyncio.timeout(_MAX_SECONDS):
            writer.write(f"{side} {len(data)}\n".encode())
            writer.write(data)
            await writer.drain()
            facts = json.loads(await reader.readuntil(b"\n"))
            shown = await reader.readexactly(facts.pop("bytes"))
        return str(facts["refused"]) if "refused" in facts else Preview(**facts, shown=shown)

    async def end(self) -> None:
        with suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
