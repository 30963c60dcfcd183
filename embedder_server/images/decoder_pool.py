"""Decode images in processes that can be killed, within the worker's memory budget.

An image takes its share of memory, then a free process, interactive images first. Its process is
killed and replaced when the image takes too long, takes more memory than it was granted, or is not
wanted any more. Only that image fails.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from embedder_server.images import costs
from embedder_server.images.decoder import recognise, too_costly
from embedder_server.images.decoder_process import Setup
from embedder_server.images.fork_server import Decoder, ForkServer
from embedder_server.types import ImageFacts, ImageFile, Priority
from sentinel_core.calls import Deadline
from sentinel_core.errors import InvalidArgument, Unavailable
from sentinel_core.memory import MemoryBudget, Share

logger = logging.getLogger(__name__)

# An image whose caller has left may end within this time; ordinary ones do.
_GRACE_S = 0.25
# Kept back from a deadline, so that the error names the lack of memory and not of time.
_MARGIN_S = 0.02
_THUMBNAIL_BYTES = 4 * 1024 * 1024
# Shared memory above this is freed after an image. A phone's photo of 12 megapixels stays: to have its
# pages made again for each takes longer than to copy it.
_KEPT_BYTES = 4 * 1024 * 1024
# The system may kill a process because another one took the memory, so one more may try.
_MOST_DEATHS = 2
# If processes die one after the other, each is replaced later than the one before.
_FIRST_PAUSE_S = 0.02
_LONGEST_PAUSE_S = 2.0
# How the work of a process can end before its image is decoded.
CAUSES = ("time", "memory", "caller_left", "died")


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """The image network's input for one image, facts about its file, and times in seconds."""

    pixels: npt.NDArray[np.generic]
    facts: ImageFacts
    decode_s: float  # thumbnail included
    preprocess_s: float


_Item = TypeVar("_Item")


class Waitlist(Generic[_Item]):
    """Things that callers take in turns, interactive ones first, and then by their numbers."""

    def __init__(self) -> None:
        self._free: list[_Item] = []
        self._waiting: list[tuple[Priority, int, asyncio.Future[_Item]]] = []
        self._closed: Exception | None = None

    async def take(self, priority: Priority, number: int) -> _Item:
        """Wait for a thing that is free; `give` it back."""
        if self._closed is not None:
            raise self._closed
        if self._free:
            return self._free.pop()
        turn: asyncio.Future[_Item] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (priority, number, turn))
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.give(turn.result())  # it came as its caller left
            raise

    def give(self, item: _Item) -> None:
        """Let the next caller have a thing."""
        while self._waiting:
            _, _, turn = heapq.heappop(self._waiting)
            if not turn.done():
                turn.set_result(item)
                return
        self._free.append(item)

    def discard(self, item: _Item) -> None:
        """Forget a thing if it is free."""
        if item in self._free:
            self._free.remove(item)

    def close(self, error: Exception) -> None:
        """Fail everybody who waits or will come."""
        self._closed = error
        for _, _, turn in self._waiting:
            if not turn.done():
                turn.set_exception(error)
        self._waiting.clear()


@dataclass(eq=False, slots=True)
class _Job:
    image: ImageFile
    share: Share
    # The image; the bytes that it needs; or None if the process died.
    done: asyncio.Future[PreparedImage | int | None]
    timer: asyncio.TimerHandle | None = None


class DecoderPool:
    """Create and use it in one event loop.

    Args:
        forks: Starts the processes.
        setup: Limits and preprocessing.
        processes: How many decode at once.
        max_seconds: Longest time for one image.
        memory: Where decoded pixels take their share.
        on_ended: Called with one of `CAUSES` when a process is replaced before its image is done.
        on_failure: Called if no process can be started any more.
    """

    def __init__(
        self,
        forks: ForkServer,
        setup: Setup,
        *,
        processes: int,
        max_seconds: float,
        memory: MemoryBudget,
        on_ended: Callable[[str], None],
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._forks = forks
        self._setup = setup
        self._processes = processes
        self._max_seconds = max_seconds
        self._memory = memory
        self._on_ended = on_ended
        self._on_failure = on_failure
        self._shared_bytes = 0
        self._decoders: set[Decoder] = set()
        # Those that wait for memory hold no process, and no more wait for the first grant than
        # there are processes: images in the queue hold no memory.
        self._turns = Waitlist[None]()
        self._idle = Waitlist[Decoder]()
        self._jobs: dict[Decoder, _Job] = {}
        self._killed: dict[Decoder, str] = {}
        self._numbers = itertools.count()
        self._starting: set[asyncio.Task[None]] = set()
        self._deaths = 0  # since the last answer
        self._closed = False

    async def start(self, pixel_bytes: int) -> None:
        """Start the processes; `pixel_bytes` is the size of the model's input for one image.

        Raises:
            OSError: They cannot be started.
        """
        self._shared_bytes = max(self._setup.max_bytes, pixel_bytes + _THUMBNAIL_BYTES)
        for _ in range(self._processes):
            self._add(await asyncio.to_thread(self._forks.fork, self._setup, self._shared_bytes))
            self._turns.give(None)

    def close(self) -> None:
        """End the processes, and fail images in work with DRAINING."""
        self._closed = True
        self._turns.close(_draining())
        self._idle.close(_draining())
        for job in self._jobs.values():
            self._finish(job, _draining())
        self._jobs.clear()
        for decoder in self._decoders:
            self._release(decoder)
        self._decoders.clear()

    async def prepare(
        self, image: ImageFile, thumbnail_side: int, priority: Priority, deadline: Deadline
    ) -> PreparedImage:
        """Return the model's input for one image file.

        To give up, cancel: the image then costs at most a short grace.

        Raises:
            InvalidArgument: The image is empty, too large, of an unsupported format, damaged or
                too costly.
            ResourceExhausted: MEMORY_EXHAUSTED.
            Unavailable: DRAINING.
        """
        recognise(image.data, self._setup.max_bytes)
        number = next(self._numbers)

        async def attempt(granted: int) -> PreparedImage | int | None:
            # Given back when the process has ended the work: perhaps after its caller has left.
            share = await self._memory.take(granted, Deadline(deadline.at - _MARGIN_S))
            try:
                decoder = await self._idle.take(priority, number)
            except BaseException:
                share.release()
                raise
            job = _Job(image, share, self._loop.create_future())
            self._begin(decoder, job, granted, thumbnail_side)
            return await job.done

        # A decoder that has read the header of a larger image tells what it needs.
        granted = first_grant = costs.first_bytes(len(image.data), self._setup.model_side)
        deaths = 0
        while deaths < _MOST_DEATHS:
            self._check_fits(granted)
            if granted == first_grant:
                await self._turns.take(priority, number)
                try:
                    answer = await attempt(granted)
                finally:
                    self._turns.give(None)
            else:
                answer = await attempt(granted)
            if isinstance(answer, PreparedImage):
                return answer
            if answer is None:
                deaths += 1
            else:
                granted = answer
        raise too_costly("decoding the image ended its process again and again", "bytes", granted)

    def _check_fits(self, size: int) -> None:
        if size > self._memory.largest:
            raise too_costly(
                f"decoding the image needs {size} bytes of memory, the limit is "
                f"{self._memory.largest}, a part of the worker's --memory-bytes",
                "bytes",
                self._memory.largest,
            )

    def _begin(self, decoder: Decoder, job: _Job, granted: int, thumbnail_side: int) -> None:
        if decoder not in self._decoders:  # it ended on its way here
            self._finish(job, _draining() if self._closed else None)
            return
        self._jobs[decoder] = job
        job.timer = self._loop.call_later(self._max_seconds, self._kill_if_at, decoder, job, "time")
        job.done.add_done_callback(lambda _: self._on_done(decoder, job))
        crop = job.image.crop
        try:
            decoder.send(
                job.image.data,
                granted=granted,
                crop=(crop.left, crop.top, crop.right, crop.bottom) if crop else None,
                thumbnail_side=thumbnail_side,
            )
        except OSError:
            self._on_end(decoder)

    def _on_done(self, decoder: Decoder, job: _Job) -> None:
        if job.done.cancelled():
            self._loop.call_later(_GRACE_S, self._kill_if_at, decoder, job, "caller_left")

    def _kill_if_at(self, decoder: Decoder, job: _Job, cause: str) -> None:
        if self._jobs.get(decoder) is not job or decoder in self._killed:
            return
        if not decoder.has_answered():  # this process itself may have stood still
            self._killed[decoder] = cause
            decoder.kill()

    def _on_readable(self, decoder: Decoder) -> None:
        if decoder not in self._decoders:  # it ended while it was being given a job
            return
        answer = decoder.receive()
        if answer is None:
            self._on_end(decoder)
            return
        self._deaths = 0
        job = self._jobs.pop(decoder)
        killed = self._killed.pop(decoder, None)  # just after it had answered
        outcome = _outcome(decoder, answer)
        if len(job.image.data) > _KEPT_BYTES:
            decoder.free_memory(_KEPT_BYTES)
        if answer["exceeded"]:
            self._on_ended("memory")
        if answer["exceeded"] or answer["grown"] or killed:
            self._replace(decoder)
        else:
            self._idle.give(decoder)
        self._finish(job, outcome)

    def _on_end(self, decoder: Decoder) -> None:
        """Replace a process that has ended, and tell its caller."""
        cause = self._killed.pop(decoder, "died")
        self._deaths += cause == "died"
        job = self._jobs.pop(decoder, None)
        size = len(job.image.data) if job else 0
        logger.warning("an image decoder ended", extra={"cause": cause, "image_bytes": size})
        self._on_ended(cause)
        self._idle.discard(decoder)
        self._replace(decoder)
        if job is not None:
            self._finish(job, self._too_slow() if cause == "time" else None)

    def _too_slow(self) -> InvalidArgument:
        limit = f"{self._max_seconds:g}"
        return too_costly(
            f"decoding the image takes more than {limit} s, the worker's --max-decode-seconds",
            "seconds",
            limit,
        )

    def _finish(self, job: _Job, outcome: PreparedImage | int | Exception | None) -> None:
        job.share.release()
        if job.timer is not None:
            job.timer.cancel()
        if job.done.done():  # its caller has left
            return
        if isinstance(outcome, Exception):
            job.done.set_exception(outcome)
        else:
            job.done.set_result(outcome)

    def _add(self, decoder: Decoder) -> None:
        self._decoders.add(decoder)
        self._loop.add_reader(decoder.channel.fileno(), self._on_readable, decoder)
        self._idle.give(decoder)

    def _release(self, decoder: Decoder) -> None:
        self._loop.remove_reader(decoder.channel.fileno())
        decoder.kill()
        decoder.close()

    def _replace(self, decoder: Decoder) -> None:
        self._decoders.remove(decoder)
        self._release(decoder)
        task = self._loop.create_task(self._start_another())
        self._starting.add(task)
        task.add_done_callback(self._starting.discard)

    async def _start_another(self) -> None:
        if self._deaths > 1:
            await asyncio.sleep(min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(self._deaths, 9)))
        try:
            decoder = await asyncio.to_thread(self._forks.fork, self._setup, self._shared_bytes)
        except OSError as error:
            if not self._closed:
                self._on_failure(error)
            return
        if self._closed:
            decoder.close()
        else:
            self._add(decoder)


def _draining() -> Unavailable:
    return Unavailable("DRAINING", "this worker is shutting down; retry on another one")


def _outcome(decoder: Decoder, answer: dict[str, Any]) -> PreparedImage | int | Exception:
    """Return what an answer says: the image, how many bytes it needs, or its error."""
    if "needed" in answer:
        return int(answer["needed"])
    if "reason" in answer:
        return InvalidArgument(answer["reason"], answer["message"], **answer["metadata"])
    if "fault" in answer:
        return RuntimeError(answer["fault"])
    dtype = np.dtype(answer["dtype"])
    count = math.prod(answer["shape"])
    used = count * dtype.itemsize
    # A copy, because the next image overwrites the shared memory.
    pixels = np.frombuffer(decoder.memory, dtype, count).reshape(answer["shape"]).copy()
    thumbnail = decoder.memory[used : answer["end"]]
    width, height, media_type = answer["facts"]
    return PreparedImage(
        pixels,
        ImageFacts(width, height, media_type, thumbnail),
        answer["decode_s"],
        answer["preprocess_s"],
    )
