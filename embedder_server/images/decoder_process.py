"""The processes that decode images: a template that forks them, and the work of each one.

A decoder handles one image at a time. It gets a job as JSON over a socket and the file in shared
memory, and leaves the model's input there. Whatever a file makes Pillow do, it costs this process
at most the memory it was granted, and `decoder_pool.py` ends it when it takes too long.

The template imports what decoding needs once and then only forks, so a new decoder takes
milliseconds. No model is imported here, and no port is open.

Only Linux bounds a process's memory and ends it with its parent. Elsewhere an image can take more
than its header says, and a decoder ends when its socket does.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import logging
import mmap
import os
import pickle
import resource
import signal
import socket
import sys
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from embedder_server.images import codecs
from embedder_server.images.costs import MemoryNeeded, stretched_bytes
from embedder_server.images.decoder import ImageDecoder, too_costly
from embedder_server.images.preprocessing import cropped, kept_share
from embedder_server.types import Crop
from sentinel_core.errors import InvalidArgument

# A message holds a job, an answer or a `Setup`, never an image.
MESSAGE_BYTES = 64 * 1024
READY = b"ready"
# Elsewhere no sockets keep messages apart. But each message is answered before the next.
CHANNEL = socket.SOCK_SEQPACKET if sys.platform == "linux" else socket.SOCK_STREAM

NICENESS = 5  # as of the model's threads
_PR_SET_PDEATHSIG = 1
_FIRST_TO_BE_KILLED = "1000"  # when the machine or the container has no memory left
# A decoder whose memory stays larger by this much after an image is replaced.
_KEPT_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Setup:
    """What each decoder of a worker gets first.

    Attributes:
        max_bytes: Most bytes of a file.
        max_pixels: Most pixels of an image.
        model_side: Side of the square the model sees.
        preprocess: Turns an RGB image into the model's input.
    """

    max_bytes: int
    max_pixels: int
    model_side: int
    preprocess: Callable[[Image.Image], npt.NDArray[np.generic]]


def run_template(control: socket.socket) -> None:
    """Fork a decoder for each `Setup`, socket and shared memory that arrive; end with `control`.

    Answers with a pidfd of the new process, or its number where there are none.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the worker decides when its decoders end
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Pillow tells of damaged files on standard error. Their senders are told.
    warnings.simplefilter("ignore")
    logging.disable()
    codecs.load()
    gc.freeze()  # forks share what is imported
    with contextlib.suppress(ConnectionError):  # the worker has ended
        control.send(READY)
        _fork_on_demand(control)


def _fork_on_demand(control: socket.socket) -> None:
    template = os.getpid()
    while True:
        message, files, _, _ = socket.recv_fds(control, MESSAGE_BYTES, 2)
        if not message:
            return
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        pid = os.fork()
        if pid == 0:
            control.close()
            if sys.platform == "linux":
                _die_with(template)
            _decode_for(message, socket.socket(fileno=files[0]), files[1])
            os._exit(0)
        for file in files:
            os.close(file)
        if sys.platform == "linux":
            handle = os.pidfd_open(pid)
            socket.send_fds(control, [READY], [handle])
            os.close(handle)
        else:
            control.send(READY + b"%d" % pid)


def _die_with(template: int) -> None:
    """End this process when the template ends, which ends when the worker does."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != template:  # it ended before
        os._exit(0)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write(_FIRST_TO_BE_KILLED)


def _decode_for(setup: bytes, channel: socket.socket, memory_file: int) -> None:
    # Never interrupt the model's threads on waking up: they wait for one another.
    os.nice(NICENESS)
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    with channel, mmap.mmap(memory_file, 0) as memory:
        os.close(memory_file)
        work = _Work(pickle.loads(setup), memory)
        with contextlib.suppress(ConnectionError):  # the worker has no use for it any more
            while message := channel.recv(MESSAGE_BYTES):
                answer = work.answer(json.loads(message))
                channel.send(json.dumps(answer).encode())


class _Work:
    """Decodes images from shared memory and leaves the results there."""

    def __init__(self, setup: Setup, memory: mmap.mmap) -> None:
        self._memory = memory
        self._preprocess = setup.preprocess
        self._model_side = setup.model_side
        self._granted = 0
        self._needed = 0
        self._decoder = ImageDecoder(
            max_bytes=setup.max_bytes,
            max_pixels=setup.max_pixels,
            model_side=setup.model_side,
            admit=self._admit,
        )
        if sys.platform == "linux":
            self._statm = os.open("/proc/self/statm", os.O_RDONLY)
        self._first_size = self._size()
        self._hard_limit = resource.getrlimit(resource.RLIMIT_AS)[1]

    def answer(self, job: dict[str, Any]) -> dict[str, Any]:
        """Return what the parent needs to know of one image; results are in shared memory."""
        self._granted = job["granted"]
        self._limit_memory(self._size() + self._granted)
        exceeded = False
        try:
            answer = self._prepare(job)
        except MemoryNeeded as needed:
            answer = {"needed": needed.size}
        except InvalidArgument as error:
            answer = _refusal(error)
        except MemoryError:
            exceeded = True
            answer = _refusal(
                too_costly(
                    "decoding the image takes more memory than its header says",
                    "bytes",
                    self._granted,
                )
            )
        except Exception:
            answer = {"fault": traceback.format_exc()[-MESSAGE_BYTES // 8 :]}
        finally:
            self._limit_memory(None)
        grown = self._size() > self._first_size + _KEPT_BYTES
        return {**answer, "exceeded": exceeded, "grown": grown}

    def _prepare(self, job: dict[str, Any]) -> dict[str, Any]:
        start = perf_counter()
        data = self._memory[: job["size"]]
        crop = Crop(*job["crop"]) if job["crop"] else None
        decoded = self._decoder.decode(data, kept_share(crop))
        thumbnail = b""
        if job["thumbnail_side"]:
            thumbnail = self._decoder.thumbnail(data, decoded, job["thumbnail_side"])
        decoded_at = perf_counter()
        picture = cropped(decoded.picture, crop)
        self._admit(self._needed + stretched_bytes(picture.size, self._model_side))
        pixels = self._preprocess(picture)
        end = pixels.nbytes + len(thumbnail)
        # Over the file, which has been read.
        view = np.frombuffer(self._memory, pixels.dtype, pixels.size)
        view[:] = pixels.reshape(-1)
        self._memory[pixels.nbytes : end] = thumbnail
        return {
            "shape": pixels.shape,
            "dtype": pixels.dtype.str,
            "end": end,
            "facts": (decoded.width, decoded.height, decoded.media_type),
            "decode_s": decoded_at - start,
            "preprocess_s": perf_counter() - decoded_at,
        }

    def _limit_memory(self, most: int | None) -> None:
        if sys.platform == "linux":
            soft = self._hard_limit if most is None else most
            resource.setrlimit(resource.RLIMIT_AS, (soft, self._hard_limit))

    def _admit(self, needed: int) -> None:
        if needed > self._granted:
            raise MemoryNeeded(needed)
        self._needed = needed

    def _size(self) -> int:
        """Return the bytes of this process's address space; 0 where they are not known."""
        if sys.platform != "linux":
            return 0
        return int(os.pread(self._statm, 64, 0).split()[0]) * mmap.PAGESIZE


def _refusal(error: InvalidArgument) -> dict[str, Any]:
    return {"reason": error.reason, "message": error.message, "metadata": error.metadata}
