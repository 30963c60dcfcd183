"""The server processes of `sentinel up`, and the lock of its data folder."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from sentinel_client import (
    AsyncSentinelClient,
    ClientConfig,
    HealthStatus,
    RetryPolicy,
    SentinelError,
)
from sentinel_client.cli._console import Failure

_LAUNCHER = Path(__file__).with_name("_server_launcher.py")
_POLL_S = 0.1
_TAIL_LINES = 15
_TAIL_BYTES = 16 * 1024


@contextmanager
def locked_folder(data: Path) -> Iterator[int]:
    """Lock the data folder for one `sentinel up`; yield the descriptor for the servers to inherit.

    The kernel releases the lock (`flock`) when the last process with this descriptor ends. So no
    stale lock remains, and the folder stays locked while a server uses it, even if `sentinel up`
    was killed. The library filelock keeps its descriptor private and cannot name the owner.

    Raises:
        Failure: Another process has the lock.
    """
    import fcntl  # noqa: PLC0415 - not on Windows, where the other commands still work

    descriptor = os.open(data / "run" / "up.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(descriptor, 32).decode(errors="replace").strip()
            raise Failure(_in_use(data, owner), exit_code=1) from None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        yield descriptor
    finally:
        # Do not delete the file: another process may have opened it and lock the deleted file.
        os.close(descriptor)


def _in_use(data: Path, owner: str) -> str:
    if owner.isdecimal() and _alive(int(owner)):
        return (
            f"{data} is in use by another `sentinel up` (process {owner}): "
            "use that one, stop it, or choose another --data"
        )
    return f"the servers of an earlier `sentinel up` still use {data}: try again in a moment"


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@dataclass(frozen=True, slots=True)
class Addresses:
    """The addresses of a server."""

    grpc: str
    metrics: str


class ServerDied(Exception):
    """A server ended by itself; the text has its name, its exit code, and its last log lines."""


class Server:
    """One server process, its log and its address file.

    Attributes:
        name: Its name in messages.
        log: Its output; the log of the run before is kept as `.log.1`.
    """

    def __init__(self, name: str, module: str, arguments: Sequence[str], data: Path) -> None:
        self.name = name
        self.log = data / "logs" / f"{name}.log"
        self._address_file = data / "run" / f"{name}.address"
        self._command = [
            *(sys.executable, "-P", "-m", module),
            *("--address-file", str(self._address_file)),
            *arguments,
        ]
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, lock: int) -> None:
        """Start it in its own process group, so that Ctrl-C reaches only `sentinel up`."""
        output = await asyncio.to_thread(self._open_log)
        try:
            self._process = await asyncio.create_subprocess_exec(
                # -I: otherwise Python would import our collections.py as the standard module.
                *(sys.executable, "-I", "-S", str(_LAUNCHER), str(os.getpid())),
                *self._command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
                pass_fds=(lock,),
            )
        finally:
            os.close(output)

    def _open_log(self) -> int:
        self._address_file.unlink(missing_ok=True)
        if self.log.exists():
            self.log.replace(self.log.with_suffix(".log.1"))
        return os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    async def listening(self) -> Addresses:
        """Wait for its address file and return the addresses.

        Raises:
            ServerDied: It ended before.
        """
        while True:
            with suppress(FileNotFoundError):
                text = await asyncio.to_thread(self._address_file.read_text)
                grpc_address, metrics_address = text.split()
                return Addresses(grpc_address, metrics_address)
            self._check()
            await asyncio.sleep(_POLL_S)

    async def serving(self, address: str) -> None:
        """Wait until its health check says SERVING.

        Raises:
            ServerDied: It ended before.
        """
        config = ClientConfig(retry=RetryPolicy(max_attempts=1))
        async with AsyncSentinelClient(address, config=config) as client:
            while True:
                self._check()
                with suppress(SentinelError):
                    health = await client.health()
                    if health.services[""] is HealthStatus.SERVING:
                        return
                await asyncio.sleep(_POLL_S)

    async def ended(self) -> None:
        """Wait until it ends.

        Raises:
            ServerDied: It ended.
        """
        if self._process is not None:
            await self._process.wait()
        self._check()

    def _check(self) -> None:
        if self._process is not None and self._process.returncode is not None:
            raise ServerDied(self._describe_exit(self._process.returncode))

    def _describe_exit(self, code: int) -> str:
        how = f"exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"
        lines = self._tail()
        last = "\n".join(f"  {line}" for line in lines) or "  (empty)"
        return f"{self.name} ended by itself ({how}). The end of {self.log}:\n{last}"

    def _tail(self) -> list[str]:
        with self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - _TAIL_BYTES))
            return file.read().decode(errors="replace").splitlines()[-_TAIL_LINES:]

    async def stop(self, wait_s: float) -> bool:
        """Ask it to end; kill it and its children after `wait_s` seconds.

        Returns:
            Whether it ended without being killed.
        """
        if self._process is None or self._process.returncode is not None:
            return True
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(wait_s):
                await self._process.wait()
        except TimeoutError:
            self.kill()
            await self._process.wait()
            return False
        return True

    def kill(self) -> None:
        """Kill it and its children."""
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
