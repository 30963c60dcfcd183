"""API keys: a file of salted hashes that is read again when it changes.

A key is `sen_<id>_<secret>`. The id is no secret: it finds the entry. The secret is random, 256
bits. The file has only its scrypt hash. `sentinel keys` writes the file; a Kubernetes Secret can
hold it, too.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sentinel_core.access.followed_file import FollowedFile
from sentinel_core.access.scopes import ROLES, Caller, Scope, parse_grants
from sentinel_core.errors import ResourceExhausted, Unauthenticated

PREFIX = "sen_"
# A wrong secret for a known id costs 10 ms of CPU. Who guesses gets no more than ten a second, and
# does not keep others with the same id waiting.
_AFTER_WRONG_S = 0.1
_MOST_CHECKS = 32
_MOST_GUESSERS = 10_000
_MOST_HASH_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class _Key:
    """An entry of the file.

    Attributes:
        hash: `scrypt$n$r$p$salt$hash`, salt and hash in hexadecimal.
        expires: Seconds since 1970; None: never.
    """

    caller: Caller
    hash: str
    expires: float | None


class KeyFile:
    """The keys of one file, which it follows. Use inside one event loop, but for `close`.

    Raises ValueError if the file cannot be read at the start.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._file = FollowedFile(path, _parse)
        self._keys = self._file.value()
        self._clock = clock
        self._proven: dict[bytes, str] = {}  # SHA-256 of a key that was right, and its hash
        self._checks: dict[bytes, asyncio.Task[bool]] = {}
        self._wrong_at: dict[tuple[str, str], float] = {}  # by id and who tried
        self._thread = ThreadPoolExecutor(1, "keys")

    async def caller_of(self, key: str, host: str) -> Caller:
        """Return whose key this is; `host` is where it came from.

        Raises:
            Unauthenticated: It is wrong, revoked or expired.
            ResourceExhausted: This host sent a wrong secret for this id just now, or too many keys
                are being checked.
        """
        self._follow_file()
        key_id = key.removeprefix(PREFIX).partition("_")[0]
        digest = hashlib.sha256(key.encode()).digest()
        known = self._keys.get(key_id)
        if known is not None and self._proven.get(digest) != known.hash:
            await self._prove(key, digest, (key_id, host), known.hash)
            known = self._keys.get(key_id)  # the file may have changed meanwhile
            if known is not None and self._proven.get(digest) != known.hash:
                raise _wrong()
        if known is None:
            raise _wrong()
        if known.expires is not None and known.expires <= self._clock():
            raise Unauthenticated(
                "CREDENTIALS_EXPIRED", f"key {key_id} has expired; ask the operator for a new one"
            )
        return known.caller

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(cancel_futures=True)

    async def _prove(self, key: str, digest: bytes, who: tuple[str, str], expected: str) -> None:
        """Check a key once, however many callers bring it at the same time."""
        check = self._checks.get(digest)
        if check is None:
            now = time.monotonic()
            recently = now - self._wrong_at.get(who, -_AFTER_WRONG_S) < _AFTER_WRONG_S
            if recently or len(self._checks) >= _MOST_CHECKS:
                raise ResourceExhausted(
                    "CREDENTIALS_THROTTLED",
                    f"too many wrong keys come; retry in {_AFTER_WRONG_S} s",
                    retry_after_s=_AFTER_WRONG_S,
                )
            if len(self._wrong_at) >= _MOST_GUESSERS:
                self._wrong_at.clear()
            self._wrong_at[who] = now  # until it is proven to be right
            check = self._checks[digest] = asyncio.create_task(
                self._check(key, digest, who, expected)
            )
            check.add_done_callback(lambda _: self._checks.pop(digest, None))
        if not await asyncio.shield(check):
            raise _wrong()

    async def _check(self, key: str, digest: bytes, who: tuple[str, str], expected: str) -> bool:
        loop = asyncio.get_running_loop()
        is_right = await loop.run_in_executor(self._thread, matches, key, expected)
        if is_right:
            self._proven[digest] = expected
            self._wrong_at.pop(who, None)
        return is_right

    def _follow_file(self) -> None:
        keys = self._file.value()
        if keys is not self._keys:
            self._keys = keys
            valid = {key.hash for key in keys.values()}
            self._proven = {digest: one for digest, one in self._proven.items() if one in valid}


def matches(key: str, expected: str) -> bool:
    """Tell whether a key has this hash, in a time that does not depend on the answer."""
    _, n, r, p, salt, digest = expected.split("$")
    wanted = bytes.fromhex(digest)
    found = hashlib.scrypt(
        key.encode(),
        salt=bytes.fromhex(salt),
        n=int(n),
        r=int(r),
        p=int(p),
        maxmem=_MOST_HASH_BYTES,
        dklen=len(wanted),
    )
    return hmac.compare_digest(found, wanted)


def _check_hash(text: str) -> None:
    """Raise ValueError if scrypt cannot compute such a hash."""
    _, n, r, p, salt, digest = text.split("$")
    cost, block = int(n), int(r)
    is_power = cost > 1 and cost & (cost - 1) == 0
    fits = is_power and block > 0 and int(p) > 0 and 128 * cost * block < _MOST_HASH_BYTES
    if not (fits and bytes.fromhex(salt) and bytes.fromhex(digest)):
        raise ValueError("a hash has parameters that scrypt cannot use")


def _wrong() -> Unauthenticated:
    return Unauthenticated(
        "CREDENTIALS_INVALID", "this key is unknown, wrong or revoked; use a valid one"
    )


def _parse(text: str) -> dict[str, _Key]:
    try:
        content = json.loads(text)
        roles = dict[str, tuple[Scope, ...]](ROLES)
        for name, scopes in content.get("roles", {}).items():
            roles[name] = tuple(Scope(scope) for scope in scopes)
        return {entry["id"]: _key(entry, roles) for entry in content["keys"]}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"this is no file of keys: {error!r}") from error


def _key(entry: dict[str, Any], roles: dict[str, tuple[Scope, ...]]) -> _Key:
    if not entry["hash"].startswith("scrypt$"):
        raise ValueError(f"key {entry['id']} has an unknown kind of hash")
    _check_hash(entry["hash"])
    expires = entry.get("expires")
    return _Key(
        Caller(entry["id"], parse_grants(entry["grants"], roles), entry.get("tenant") or ""),
        entry["hash"],
        datetime.fromisoformat(expires).astimezone(UTC).timestamp() if expires else None,
    )
