"""The server processes that `sentinel up` starts, watches and stops."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sentinel_client._client import AsyncSentinelClient
from sentinel_client._config import ClientConfig, RetryPolicy
from sentinel_client._errors import SentinelError
from sentinel_client._types import HealthStatus

_LAUNCH = Path(__file__).with_name("_launch.py")
_POLL_S = 0.1
_TAIL_LINES = 15
_TAIL_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where a server listens."""

    grpc: str
    metrics: str


class Died(Exception):
    """A server ended by itself; the text says which, how, and its last log lines."""


class Server:
    """One server process, its log and its address file.

    Attributes:
        name: What people call it.
        log: Its output; what the run before wrote is kept beside it as `.log.1`.
    """

    def __init__(self, name: str, module: str, arguments: Sequence[str], folder: Path) -> None:
        self.name = name
        self.log = folder / "logs" / f"{name}.log"
        self._address_file = folder / "run" / f"{name}.address"
        self._command = [
            *(sys.executable, "-P", "-m", module),
            *("--address-file", str(self._address_file)),
            *arguments,
        ]
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, lock: int) -> None:
        """Start it in a process group of its own, so that Ctrl-C reaches only us."""
        output = await asyncio.to_thread(self._prepare)
        try:
            self._process = await asyncio.create_subprocess_exec(
                # -I: with cli/ on its path it would take collections.py for the standard module.
                *(sys.executable, "-I", "-S", str(_LAUNCH), str(os.getpid())),
                *self._command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
                pass_fds=(lock,),
            )
        finally:
            os.close(output)

    def _prepare(self) -> int:
        self._address_file.unlink(missing_ok=True)
        if self.log.exists():
            self.log.replace(self.log.with_suffix(".log.1"))
        return os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    async def listening(self) -> Addresses:
        """Return its addresses once it has them.

        Raises:
            Died: It ended before.
        """
        while True:
            with suppress(FileNotFoundError):
                text = await asyncio.to_thread(self._address_file.read_text)
                grpc_address, metrics_address = text.split()
                return Addresses(grpc_address, metrics_address)
            self._check()
            await asyncio.sleep(_POLL_S)

    async def serving(self, address: str) -> None:
        """Return once its health check says SERVING.

        Raises:
            Died: It ended before.
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
        """Wait for its end, which is an error unless `stop` asked for it.

        Raises:
            Died: It ended.
        """
        assert self._process is not None
        await self._process.wait()
        self._check()

    def _check(self) -> None:
        if self._process is not None and self._process.returncode is not None:
            raise Died(self._obituary(self._process.returncode))

    def _obituary(self, code: int) -> str:
        how = f"exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"
        lines = self._tail()
        last = "\n".join(f"  {line}" for line in lines) or "  (empty)"
        return f"{self.name} ended by itself ({how}). The end of {self.log}:\n{last}"

    def _tail(self) -> list[str]:
        with self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - _TAIL_BYTES))
            return file.read().decode(errors="replace").splitlines()[-_TAIL_LINES:]

    async def stop(self, patience: float) -> bool:
        """Ask it to end; kill it and what it started after `patience` seconds.

        Returns:
            Whether it ended when asked to.
        """
        if self._process is None or self._process.returncode is not None:
            return True
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(patience):
                await self._process.wait()
        except TimeoutError:
            self.kill()
            await self._process.wait()
            return False
        return True

    def kill(self) -> None:
        """End it, and what it started, at once."""
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
