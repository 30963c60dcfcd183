"""Decide who makes a call and whether it may: before the request is received, and once it is read.

Without keys, tokens and a CA for clients, everybody may do everything. With one of them, a call
needs a credential, and a method without a rule is refused to all. Quotas count the call before its
request is received, and charge it once its cost is known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sentinel_core.access.keys import PREFIX, KeyFile
from sentinel_core.access.quotas import Cost, Quotas
from sentinel_core.access.scopes import EVERYTHING, Caller, Scope
from sentinel_core.access.tokens import TokenRules, TokenVerifier
from sentinel_core.calls import Call
from sentinel_core.errors import PermissionDenied, SentinelError, Unauthenticated
from sentinel_core.settings import ServerSettings

_HEADER = "authorization"
_ONE_CALL = Cost()


def _one_call(request: Any) -> Cost:
    return _ONE_CALL


def _no_collections(request: Any) -> Iterable[str]:
    return ()


@dataclass(frozen=True, slots=True)
class Rule:
    """What a method needs.

    Attributes:
        scope: None: no particular one; any valid credential is enough.
        collections: Names the collections of a request that need `scope`; if it names none, the
            scope for any collection is enough, and the method looks after the rest.
        cost: What a request costs, for quotas.
        is_open: It needs nothing, not even a credential.
    """

    scope: Scope | None
    collections: Callable[[Any], Iterable[str]] = _no_collections
    cost: Callable[[Any], Cost] = _one_call
    is_open: bool = False


@dataclass(frozen=True, slots=True)
class Credentials:
    """What callers may prove themselves with; nothing at all leaves a server open to everybody.

    Attributes:
        by_certificate: The certificate of the connection is enough, and allows everything.
        quotas: How much they may ask for; None: as much as they want.
    """

    keys: KeyFile | None = None
    tokens: TokenVerifier | None = None
    by_certificate: bool = False
    quotas: Quotas | None = None

    @property
    def needed(self) -> bool:
        return bool(self.keys or self.tokens or self.by_certificate)

    def close(self) -> None:
        """End the threads."""
        for one in (self.keys, self.tokens):
            if one is not None:
                one.close()


def open_credentials(
    settings: ServerSettings, tokens: TokenRules | None = None, quotas: Quotas | None = None
) -> Credentials:
    """Return what callers of a server may prove themselves with.

    Raises ValueError if the file of keys cannot be read.
    """
    keys = KeyFile(settings.keys_file) if settings.keys_file else None
    verifier = TokenVerifier(tokens) if tokens else None
    by_certificate = settings.tls_client_ca is not None and not (keys or verifier)
    return Credentials(keys, verifier, by_certificate, quotas)


class Access:
    """Checks the calls of one server. Use inside one event loop."""

    def __init__(
        self, rules: Mapping[str, Rule], credentials: Credentials, *, is_audited: bool
    ) -> None:
        """Check calls of the methods in `rules`, by their paths.

        `is_audited` notes scope and collections for the audit log also where everybody may call.
        """
        self._rules = rules
        self._credentials = credentials
        self._is_open = not credentials.needed
        self._has_no_work = self._is_open and not is_audited

    async def identify(self, call: Call, context: Any) -> None:
        """Set who calls, and check that the caller may use the method at all.

        Raises:
            Unauthenticated: There is no valid credential.
            PermissionDenied: It has not the method's scope.
            ResourceExhausted: The caller has too many calls, or credentials cannot be checked now.
            Unavailable: Credentials cannot be checked now.
        """
        if self._has_no_work:
            return
        rule = self._rules.get(call.method)
        if rule is None:
            raise PermissionDenied("SCOPE_MISSING", f"nobody may call {call.method}")
        if rule.is_open:
            return
        if not self._is_open:
            call.caller = await self._caller_of(context)
        call.scope = rule.scope
        if rule.scope is not None:
            call.caller.check(rule.scope)
        quotas = self._credentials.quotas
        if quotas is not None and call.slot is None:
            call.slot = quotas.enter(call.caller)

    async def authorize(self, call: Call, request: Any, size: int, *, in_stream: bool) -> None:
        """Charge a request of `size` bytes, and check that the caller may use its collections.

        A message of a stream is never refused for its cost: `pace` comes before it.

        Raises:
            PermissionDenied: It may not.
            ResourceExhausted: A quota is used up.
        """
        rule = None if self._has_no_work else self._rules.get(call.method)
        if rule is None or rule.is_open:
            return
        quotas = self._credentials.quotas
        if quotas is not None:
            await quotas.charge(call.caller, rule.cost(request), size, even_if_empty=in_stream)
        names = tuple(rule.collections(request))
        call.collections = names or call.collections
        if rule.scope is not None:
            for name in names:
                call.caller.check(rule.scope, name)

    async def pace(self, call: Call) -> None:
        """Wait until the quotas of a stream's caller have something again, up to a minute.

        Raises ResourceExhausted if it takes longer.
        """
        quotas = self._credentials.quotas
        if quotas is not None:
            await quotas.pace(call.caller)

    async def _caller_of(self, context: Any) -> Caller:
        keys, tokens = self._credentials.keys, self._credentials.tokens
        if not (keys or tokens):
            return _holder_of_certificate(context)
        given = [value for key, value in context.invocation_metadata() or () if key == _HEADER]
        if not given:
            raise Unauthenticated(
                "CREDENTIALS_MISSING",
                "this server needs a key: send the metadata `authorization: Bearer <key>`",
            )
        kind, _, credential = str(given[0]).partition(" ")
        if len(given) > 1 or kind.lower() != "bearer" or not credential:
            raise _unusable("send the metadata `authorization: Bearer <key>`, once")
        if credential.startswith(PREFIX) and keys:
            return await keys.caller_of(credential, context.peer().rpartition(":")[0])
        if tokens:
            return await tokens.caller_of(credential)
        raise _unusable(f"this server takes keys, which begin with {PREFIX}")


def _holder_of_certificate(context: Any) -> Caller:
    names = context.auth_context().get("x509_common_name") or [b""]
    return Caller(names[0].decode(errors="replace")[:200], EVERYTHING)


def _unusable(message: str) -> SentinelError:
    return Unauthenticated("CREDENTIALS_INVALID", message)
