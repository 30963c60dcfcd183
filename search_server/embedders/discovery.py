"""Find the addresses of the embedder workers: given ones, and every address of a DNS name.

`host:port` is one worker. `dns:///name:port` is one worker for each address of the name: the
replicas of a Compose service, or the pods behind a headless Service of Kubernetes. The pool
resolves names again every few seconds, so that new workers get work and removed ones get none.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Sequence

logger = logging.getLogger(__name__)

_DNS = "dns:///"


class Directory:
    """The addresses of a list of entries. Use inside one event loop.

    Args:
        entries: `host:port` or `dns:///name:port`, already checked.
    """

    def __init__(self, entries: Sequence[str]) -> None:
        self.entries = tuple(entries)
        self.has_names = any(entry.startswith(_DNS) for entry in entries)
        self._resolved: dict[str, list[str]] = {}

    @property
    def addresses(self) -> dict[str, str]:
        """The addresses known now, in the order of the entries, each with its host's name."""
        known: dict[str, str] = {}
        for entry in self.entries:
            host = entry.removeprefix(_DNS).rpartition(":")[0].strip("[]")
            addresses = self._resolved.get(entry, []) if entry.startswith(_DNS) else [entry]
            known.update(dict.fromkeys(addresses, host))
        return known

    async def refresh(self) -> None:
        """Resolve every name; keep the old addresses of a name that cannot be resolved."""
        names = [entry for entry in self.entries if entry.startswith(_DNS)]
        await asyncio.gather(*(self._resolve(entry) for entry in names))

    async def _resolve(self, entry: str) -> None:
        host, _, port = entry.removeprefix(_DNS).rpartition(":")
        loop = asyncio.get_running_loop()
        known = self._resolved.get(entry)
        try:
            answers = await loop.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
        except OSError as error:
            # Either no replica runs, or the resolver fails. Health checks find out which of the
            # known workers still run.
            if known is None:
                logger.warning("no worker has this name yet", extra={"entry": entry, "why": error})
                self._resolved[entry] = []
            return
        # One address family only: a replica with an IPv4 and an IPv6 address is one worker.
        family = answers[0][0]
        hosts = {str(answer[4][0]) for answer in answers if answer[0] == family}
        found = sorted(f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}" for ip in hosts)
        if found != known:
            logger.info("workers found", extra={"entry": entry, "addresses": found})
        self._resolved[entry] = found
