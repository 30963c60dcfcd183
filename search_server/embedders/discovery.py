"""Which workers there are: addresses as given, and names that stand for every address they have.

`host:port` is one worker. `dns:///name:port` is as many as the name has addresses: the replicas of
a Compose service, the pods behind a headless Service of Kubernetes. Names are resolved anew every
few seconds, so workers that are added get work and those that are gone cost nothing.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Sequence

logger = logging.getLogger(__name__)

_DNS = "dns:///"


class Directory:
    """The addresses behind a list of entries. Use inside one event loop.

    Args:
        entries: `host:port` or `dns:///name:port`, as the settings check them.
    """

    def __init__(self, entries: Sequence[str]) -> None:
        self.entries = tuple(entries)
        self.has_names = any(entry.startswith(_DNS) for entry in entries)
        self._resolved: dict[str, list[str]] = {}

    @property
    def addresses(self) -> list[str]:
        """Every address that is known now, once, in the order of the entries."""
        known: dict[str, None] = {}
        for entry in self.entries:
            found = self._resolved.get(entry, []) if entry.startswith(_DNS) else [entry]
            known.update(dict.fromkeys(found))
        return list(known)

    async def refresh(self) -> None:
        """Resolve every name; one that cannot be resolved keeps the addresses it had."""
        names = [entry for entry in self.entries if entry.startswith(_DNS)]
        await asyncio.gather(*(self._resolve(entry) for entry in names))

    async def _resolve(self, entry: str) -> None:
        host, port = _split(entry)
        loop = asyncio.get_running_loop()
        known = self._resolved.get(entry)
        try:
            answers = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            # The name is gone while no replica runs, or the resolver is; health checks tell which
            # of the workers known so far still live.
            if known is None:
                logger.warning("no worker has this name yet", extra={"entry": entry, "why": error})
                self._resolved[entry] = []
            return
        # One family only: a replica with an IPv4 and an IPv6 address is one worker, not two.
        family = answers[0][0]
        found = sorted({_joined(str(a[4][0]), port) for a in answers if a[0] == family})
        if found != known:
            logger.info("workers found", extra={"entry": entry, "addresses": found})
        self._resolved[entry] = found


def _split(entry: str) -> tuple[str, int]:
    host, _, port = entry.removeprefix(_DNS).rpartition(":")
    return host, int(port)


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
