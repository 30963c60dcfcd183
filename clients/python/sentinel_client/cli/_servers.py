"""The server processes of `sentinel up`, and the lock of its data folder."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

from sentinel_client import (
    AsyncSentinelClient,
    ClientConfig,
    HealthStatus,
    RetryPolicy,
    SentinelError,
)
from sentinel_client.cli._console import Failure
from sentinel_client.cli._library import is_alive, read_running
from sentinel_client.cli._server_log import last_words, problem, rotate

# Exit code of a second `sentinel up` on the same library.
ALREADY_RUNS = 3
_LAUNCHER = Path(__file__).with_name("_server_launcher.py")
_POLL_S = 0.1
_ROTATE_S = 1.0


@contextmanager
def locked_folder(data: Path) -> Iterator[int]:
    """Lock the data folder for one `sentinel up`; yield the descriptor for the servers to inherit.

    The kernel releases the lock (`flock`) when the last process with this descriptor ends. So no
    stale lock remains, and the folder stays locked while a server uses it, even if `sentinel up`
    was killed. The library filelock keeps its descriptor private and cannot name the owner.
    """
    import fcntl  # noqa: PLC0415 - not on Windows, where the other commands still work

    descriptor = os.open(data / "run" / "up.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(descriptor, 32).decode(errors="replace").strip()
            raise Failure(_in_use(data, owner), exit_code=ALREADY_RUNS) from None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        yield descriptor
    finally:
        # Do not delete the file: another process may have opened it and lock the deleted file.
        os.close(descriptor)


def _in_use(data: Path, owner: str) -> str:
    if owner.isdecimal() and is_alive(int(owner)):
        running = read_running(data)
        at = f" at {running.gateway}" if running is not None and running.gateway else ""
        return (
            f"`sentinel up` already runs on {data}{at} (process {owner}): use that one, stop it, "
            "or choose another --data"
        )
    return f"the servers of an earlier `sentinel up` still use {data}: try again in a moment"


class Addresses(NamedTuple):
    grpc: str
    metrics: str


class ServerDied(Exception):
    """A server ended by itself; the text has its name, its exit code, and what its log says."""


@dataclass(frozen=True, slots=True)
class Server:
    """One server process, its log and its address file. A wait raises ServerDied if it ends."""

    name: str
    process: asyncio.subprocess.Process
    log: Path
    address_file: Path

    @classmethod
    async def start(
        cls,
        name: str,
        module: str,
        arguments: Sequence[str],
        data: Path,
        lock: int,
        *,
        tells_address: bool = True,
    ) -> Server:
        """Start it in its own process group, so that Ctrl-C reaches only `sentinel up`.

        With `tells_address`, it writes the address file that `listening` waits for.
        """
        log, address_file = data / "logs" / f"{name}.log", data / "run" / f"{name}.address"
        told = ["--address-file", str(address_file)] if tells_address else []
        with await asyncio.to_thread(_open_log, log, address_file) as output:
            process = await asyncio.create_subprocess_exec(
                # -I: otherwise Python would import our collections.py as the standard module.
                *(sys.executable, "-I", "-S", str(_LAUNCHER), str(os.getpid())),
                *(sys.executable, "-P", "-m", module, *told, *arguments),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
                pass_fds=(lock,),
            )
        return cls(name, process, log, address_file)

    @property
    def pid(self) -> int:
        return self.process.pid

    async def listening(self) -> Addresses:
        """Wait for its address file and return the addresses."""
        while True:
            with suppress(FileNotFoundError):
                text = await asyncio.to_thread(self.address_file.read_text)
                return Addresses(*text.split())
            self._check()
            await asyncio.sleep(_POLL_S)

    async def accepting(self, host: str, port: int) -> None:
        """Wait until it takes connections there."""
        while True:
            self._check()
            with suppress(OSError):
                _, writer = await asyncio.open_connection(host, port)
                writer.close()
                return
            await asyncio.sleep(_POLL_S)

    async def serving(self, address: str, on_wait: Callable[[str], None]) -> None:
        """Wait until its health check says SERVING; call `on_wait` with what it waits for."""
        # As the server was told, and not as SENTINEL_TLS_CA says of the usual gateway.
        kind = "GATEWAY" if self.name == "gateway" else "EMBEDDER"
        tls = None if os.environ.get(f"SENTINEL_{kind}_TLS_CERT") else False
        config = ClientConfig(retry=RetryPolicy(max_attempts=1), tls=tls)
        async with AsyncSentinelClient(address, config=config) as client:
            while True:
                self._check()
                with suppress(SentinelError):
                    health = await client.health()
                    if health.services[""] is HealthStatus.SERVING:
                        return
                on_wait(await asyncio.to_thread(problem, self.log))
                await asyncio.sleep(_POLL_S)

    async def keep_log_small(self) -> None:
        """Rotate its log for ever."""
        while True:
            await asyncio.to_thread(rotate, self.log)
            await asyncio.sleep(_ROTATE_S)

    async def ended(self) -> None:
        """Wait until it ends, then raise ServerDied."""
        await self.process.wait()
        self._check()

    def _check(self) -> None:
        code = self.process.returncode
        if code is None:
            return
        how = f"exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"
        raise ServerDied(
            f"{self.name} ended by itself ({how}); {self.log} has all:\n{last_words(self.log)}"
        )

    async def stop(self, wait_s: float) -> bool:
        """Ask it to end; kill it after `wait_s` seconds. Return whether it ended by itself."""
        if self.process.returncode is not None:
            return True
        with suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(wait_s):
                await self.process.wait()
        except TimeoutError:
            self.kill()
            await self.process.wait()
            return False
        return True

    def kill(self) -> None:
        """Kill it and its children."""
        if self.process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)


def _open_log(log: Path, address_file: Path) -> IO[bytes]:
    """Remove the address of the run before; keep its log as `.log.1`."""
    address_file.unlink(missing_ok=True)
    if log.exists():
        log.replace(log.with_suffix(".log.1"))
    return log.open("ab")
