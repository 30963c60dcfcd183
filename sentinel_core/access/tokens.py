"""JSON Web Tokens of an identity provider: check them, and read who calls from their claims.

Only asymmetric algorithms are allowed. So nobody can sign a token with a public key, and there is
no token without a signature.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
import urllib.request
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any

import jwt

from sentinel_core.access.scopes import ROLES, SCOPES, Caller, parse_grants
from sentinel_core.errors import ResourceExhausted, SentinelError, Unauthenticated, Unavailable

logger = logging.getLogger(__name__)

ALGORITHMS = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA"),
)
_KEYS_FOR_S = 300.0
# Keys may have been replaced: an unknown one is looked up again, but not for each token.
_LOOK_EVERY_S = 5.0
_FETCH_S = 5.0
_MOST_KEY_BYTES = 1024 * 1024
# Checking a forged token takes up to a millisecond of CPU.
_MOST_CHECKS = 32
_RETRY_AFTER_S = 0.1
_REMEMBERED = 1_000
_REMEMBER_S = 60.0
_LONGEST_ID = 200


@dataclass(frozen=True, slots=True)
class TokenRules:
    """What a token must have.

    Attributes:
        issuer: Its `iss`.
        audience: One of its `aud`.
        keys: A file or an https URL of the issuer's JWKS.
        algorithms: Those that may have signed it.
        leeway_s: Difference of the clocks, in seconds.
        scope_claim: Names grants, as one text with spaces or as a list. Others are ignored.
        tenant_claim: Names the tenant.
    """

    issuer: str
    audience: str
    keys: str
    algorithms: Sequence[str] = ("RS256", "ES256", "EdDSA")
    leeway_s: float = 30.0
    scope_claim: str = "scope"
    tenant_claim: str = "tenant"


class TokenVerifier:
    """Checks tokens. Use inside one event loop, but for `close`."""

    def __init__(self, rules: TokenRules, clock: Callable[[], float] = time.monotonic) -> None:
        self._rules = rules
        self._clock = clock
        self._keys: dict[str | None, jwt.PyJWK] = {}
        self._read_at = -_KEYS_FOR_S
        self._reading: asyncio.Task[None] | None = None
        self._checking = 0
        self._thread = ThreadPoolExecutor(2, "tokens")
        # Checking a signature takes a tenth of a millisecond: the same token comes with each call.
        self._known: OrderedDict[str, tuple[float, Caller]] = OrderedDict()

    async def caller_of(self, token: str) -> Caller:
        """Return who calls.

        Raises:
            Unauthenticated: The token is malformed, expired, for others, or badly signed.
            ResourceExhausted: Too many tokens are being checked.
            Unavailable: The issuer's keys cannot be read.
        """
        known = self._known.get(token)
        if known is not None and self._clock() < known[0]:
            self._known.move_to_end(token)
            return known[1]
        if self._checking >= _MOST_CHECKS:
            raise ResourceExhausted(
                "CREDENTIALS_THROTTLED",
                f"too many tokens come; retry in {_RETRY_AFTER_S} s",
                retry_after_s=_RETRY_AFTER_S,
            )
        self._checking += 1
        try:
            claims = await self._claims(token)
            caller = self._caller(claims)
            left = float(claims["exp"]) + self._rules.leeway_s - time.time()
        except (ValueError, TypeError, OverflowError) as error:
            raise _refused(f"its claims have wrong types or values ({error})") from error
        finally:
            self._checking -= 1
        self._known[token] = self._clock() + min(left, _REMEMBER_S), caller
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return caller

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(cancel_futures=True)

    async def _claims(self, token: str) -> dict[str, Any]:
        rules = self._rules
        try:
            header = jwt.get_unverified_header(token)
            if header.get("alg") not in rules.algorithms:
                raise _refused(f"its algorithm is not one of {', '.join(rules.algorithms)}")
            key = await self._key(header.get("kid"))
            decode = partial(
                jwt.decode,
                token,
                key.key,
                algorithms=[header["alg"]],
                audience=rules.audience,
                issuer=rules.issuer,
                leeway=rules.leeway_s,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
            loop = asyncio.get_running_loop()
            claims: dict[str, Any] = await loop.run_in_executor(self._thread, decode)
        except jwt.ExpiredSignatureError as error:
            raise Unauthenticated(
                "CREDENTIALS_EXPIRED", "the token has expired; get a new one"
            ) from error
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError) as error:
            raise _refused(str(error)) from error
        return claims

    def _caller(self, claims: dict[str, Any]) -> Caller:
        given = claims.get(self._rules.scope_claim) or ""
        words = given.split() if isinstance(given, str) else [str(one) for one in given]
        ours = [word for word in words if _is_ours(word)]
        tenant = claims.get(self._rules.tenant_claim) or ""
        return Caller(str(claims["sub"])[:_LONGEST_ID], parse_grants(ours), str(tenant))

    async def _key(self, key_id: str | None) -> jwt.PyJWK:
        age = self._clock() - self._read_at
        key = self._keys.get(key_id)
        if age >= (_LOOK_EVERY_S if key is None else _KEYS_FOR_S):
            if self._reading is None or self._reading.done():
                self._reading = asyncio.create_task(self._read())
            if key is None:  # else they are read beside the calls
                await asyncio.shield(self._reading)
                key = self._keys.get(key_id)
        if not self._keys:
            raise Unavailable(
                "CREDENTIALS_UNCHECKED", "the keys of the issuer cannot be read; retry"
            )
        if key is None:
            raise _refused("it is signed with a key that the issuer does not have")
        return key

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            text = await loop.run_in_executor(self._thread, _fetch, self._rules.keys)
            self._keys = {key.key_id: key for key in jwt.PyJWKSet.from_dict(json.loads(text)).keys}
        # Whatever is there instead of keys: those from before go on.
        except (*_UNREADABLE, jwt.PyJWTError) as error:
            why = f"{type(error).__name__}: {error}"  # `repr` may show the whole file
            logger.error("JWKS not read", extra={"from": self._rules.keys, "why": why})
        self._read_at = self._clock()


_UNREADABLE = (OSError, HTTPException, ValueError, TypeError, KeyError, AttributeError)


def _fetch(source: str) -> bytes:
    if not source.startswith("https://"):
        return Path(source).read_bytes()
    with urllib.request.urlopen(source, timeout=_FETCH_S) as answer:
        data: bytes = answer.read(_MOST_KEY_BYTES + 1)
    if len(data) > _MOST_KEY_BYTES:
        raise ValueError(f"more than {_MOST_KEY_BYTES} bytes")
    return data


def _is_ours(word: str) -> bool:
    name = word.partition(":")[0]
    return name in SCOPES or name in ROLES


def _refused(why: str) -> SentinelError:
    return Unauthenticated("CREDENTIALS_INVALID", f"the token is not accepted: {why}")
