"""Start decoder processes from a worker, and talk to each of them.

A template process is started once and forks the decoders (`decoder_process.py`). Python's own
`forkserver` would import the main program in each of them again, the model included.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from typing import Any

from embedder_server.images.decoder_process import CHANNEL, MESSAGE_BYTES, READY, Setup

_PROGRAM = """\
import json, socket, sys
sys.path[:] = json.loads(sys.argv[1])
from embedder_server.images.decoder_process import run_template
run_template(socket.socket(fileno=int(sys.argv[2])))
"""
_MIB = 1024 * 1024
_ENVIRONMENT = {
    # Only ever one thread in a process that forks.
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    # The decoder of HEIC starts a thread, whose own arena would reserve 64 MiB.
    "MALLOC_ARENA_MAX": "1",
    # Keep the memory of an ordinary image for the next one; give that of a large one back.
    "MALLOC_MMAP_THRESHOLD_": str(4 * _MIB),
    "MALLOC_TRIM_THRESHOLD_": str(32 * _MIB),
    "MALLOC_TOP_PAD_": str(_MIB),
}
_START_TIMEOUT_S = 60.0
_FORK_TIMEOUT_S = 5.0
_CLOSE_TIMEOUT_S = 5.0


class ForkServer:
    """The template of the decoders. It starts at once, and again if it dies. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ready = False
        self._closed = False
        self._launch()

    def fork(self, setup: Setup, memory_bytes: int) -> Decoder:
        """Return a new decoder with `memory_bytes` of shared memory. This blocks.

        Raises:
            OSError: No process can be started, or `close` was called.
        """
        with self._lock:
            if self._closed:  # a pool that closes may still wait here for a replacement
                raise ConnectionError("the start of image decoders is closed")
            try:
                return self._fork(setup, memory_bytes)
            except OSError:  # the template was killed, or stopped
                self._end()
                self._launch()
                return self._fork(setup, memory_bytes)

    def close(self) -> None:
        """End the template, and with it every decoder that is left."""
        with self._lock:
            self._closed = True
            self._end()

    def _launch(self) -> None:
        self._ready = False
        self._control, theirs = socket.socketpair(socket.AF_UNIX, CHANNEL)
        self._control.settimeout(_START_TIMEOUT_S)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, json.dumps(sys.path), str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={**os.environ, **_ENVIRONMENT},
            )

    def _fork(self, setup: Setup, memory_bytes: int) -> Decoder:
        if not self._ready:
            self._expect_ready(self._control.recv(len(READY)))
            self._control.settimeout(_FORK_TIMEOUT_S)
            self._ready = True
        ours, theirs = socket.socketpair(socket.AF_UNIX, CHANNEL)
        memory_file = _new_memory_file()
        try:
            with theirs:
                os.ftruncate(memory_file, memory_bytes)
                files = [theirs.fileno(), memory_file]
                socket.send_fds(self._control, [pickle.dumps(setup)], files)
            answer, handles, _, _ = socket.recv_fds(self._control, MESSAGE_BYTES, 1)
            self._expect_ready(answer[: len(READY)])
            handle = handles[0] if handles else int(answer[len(READY) :])
        except BaseException:
            ours.close()
            os.close(memory_file)
            raise
        return Decoder(ours, memory_file, memory_bytes, handle)

    def _expect_ready(self, answer: bytes) -> None:
        if answer != READY:
            raise ConnectionError("the process that starts image decoders has ended")

    def _end(self) -> None:
        self._control.close()
        try:
            self._process.wait(_CLOSE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Decoder:
    """One decoder process: a socket for messages, shared memory, and a handle to kill it.

    Attributes:
        channel: Readable when the process has answered or ended. It does not block.
        memory: Holds the file first, and its results after the answer.
    """

    def __init__(
        self, channel: socket.socket, memory_file: int, memory_bytes: int, handle: int
    ) -> None:
        channel.setblocking(False)
        self.channel = channel
        self.memory = mmap.mmap(memory_file, memory_bytes)
        self._memory_file = memory_file
        self._handle = handle

    def send(self, data: bytes, **job: object) -> None:
        """Begin with a file; `job` is what `decoder_process.py` reads.

        Raises:
            OSError: The process has ended.
        """
        self.memory[: len(data)] = data
        self.channel.send(json.dumps({"size": len(data), **job}).encode())

    def receive(self) -> dict[str, Any] | None:
        """Return the answer; None if the process has ended."""
        try:
            message = self.channel.recv(MESSAGE_BYTES)
        except ConnectionError:
            return None
        answer: dict[str, Any] | None = json.loads(message) if message else None
        return answer

    def has_answered(self) -> bool:
        """Return whether `receive` has an answer, or the end."""
        # Not `select`: it takes no descriptor above 1023, and a busy worker has such ones.
        poll = select.poll()
        poll.register(self.channel, select.POLLIN)
        return bool(poll.poll(0))

    def free_memory(self, used: int) -> None:
        """Return the pages of shared memory after the first `used` bytes to the system."""
        os.ftruncate(self._memory_file, used)
        os.ftruncate(self._memory_file, len(self.memory))

    def kill(self) -> None:
        """End the process, whatever it does; `channel` then tells its end."""
        with contextlib.suppress(ProcessLookupError):
            if sys.platform == "linux":
                signal.pidfd_send_signal(self._handle, signal.SIGKILL)
            else:
                os.kill(self._handle, signal.SIGKILL)

    def close(self) -> None:
        """Release everything; an idle process ends."""
        self.channel.close()
        self.memory.close()
        os.close(self._memory_file)
        if sys.platform == "linux":
            os.close(self._handle)


def _new_memory_file() -> int:
    """Return a file that only its descriptor names, in memory where the system can."""
    if sys.platform == "linux":
        return os.memfd_create("decoder")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
