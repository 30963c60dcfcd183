"""Find the addresses of the embedder workers: given ones, those of a DNS name, those in a file.

`host:port` is one worker. `dns:///name:port` is one worker for each address of the name: the
replicas of a Compose service, or the pods behind a headless Service of Kubernetes.
`file:///path` is one worker for each line of the file; `sentinel up` writes one. The pool asks
again, so that new workers get work and removed ones get none.
"""

from __future__ import annotations

import asyncio
import logging
import re
import socket
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote

logger = logging.getLogger(__name__)

_DNS = "dns:///"
_FILE = "file://"
# Reading a file costs nothing; a resolver should not be asked so often.
_FILE_INTERVAL_S = 0.5
_DNS_INTERVAL_S = 3.0
_ADDRESS = re.compile(r"(\[[0-9a-fA-F:]+\]|[^/:\s\[\]]+):[0-9]{1,5}")


class Directory:
    """The addresses of a list of entries. Use inside one event loop.

    Args:
        entries: `host:port`, `dns:///name:port` or `file:///path`, already checked.

    Attributes:
        interval_s: How often to refresh; None: the addresses never change.
    """

    def __init__(self, entries: Sequence[str]) -> None:
        self.entries = tuple(entries)
        self._found: dict[str, list[str]] = {
            entry: [] if _changes(entry) else [entry] for entry in entries
        }
        names = any(entry.startswith(_DNS) for entry in entries)
        files = any(entry.startswith(_FILE) for entry in entries)
        self.interval_s = _DNS_INTERVAL_S if names else _FILE_INTERVAL_S if files else None
        self._warned: set[str] = set()

    @property
    def addresses(self) -> dict[str, str]:
        """The addresses known now, in the order of the entries, each with its host's name."""
        known: dict[str, str] = {}
        for entry, addresses in self._found.items():
            name = entry.removeprefix(_DNS) if entry.startswith(_DNS) else ""
            for address in addresses:
                known.setdefault(address, (name or address).rpartition(":")[0].strip("[]"))
        return known

    async def refresh(self) -> None:
        """Ask again; keep the old addresses of a name or file that cannot be read."""
        await asyncio.gather(*(self._refresh(entry) for entry in self.entries if _changes(entry)))

    async def _refresh(self, entry: str) -> None:
        look_up = _read if entry.startswith(_FILE) else _resolve
        try:
            found = await look_up(entry)
        except (OSError, ValueError) as error:  # ValueError: a file or path that is not text
            # Either no replica runs, or the resolver fails. Health checks find out which of the
            # known workers still run.
            if not self._found[entry] and entry not in self._warned:
                self._warned.add(entry)
                logger.warning("no worker has this name yet", extra={"entry": entry, "why": error})
            return
        if found != self._found[entry]:
            logger.info("workers found", extra={"entry": entry, "addresses": found})
        self._found[entry] = found


def _changes(entry: str) -> bool:
    return entry.startswith((_DNS, _FILE))


async def _read(entry: str) -> list[str]:
    """Return the addresses in a file, in its order; whoever writes it replaces it in one step."""
    path = Path(unquote(entry.removeprefix(_FILE)))
    lines = (await asyncio.to_thread(path.read_text, encoding="utf-8")).split()
    return [line for line in lines if _ADDRESS.fullmatch(line)]


async def _resolve(entry: str) -> list[str]:
    host, _, port = entry.removeprefix(_DNS).rpartition(":")
    loop = asyncio.get_running_loop()
    answers = await loop.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
    # One address family only: a replica with an IPv4 and an IPv6 address is one worker.
    family = answers[0][0]
    hosts = {str(answer[4][0]) for answer in answers if answer[0] == family}
    return sorted(f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}" for ip in hosts)
