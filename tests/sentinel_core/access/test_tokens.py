"""Tokens: odd claims, keys of the issuer that cannot be read, and many forged tokens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sentinel_core.access import tokens as module
from sentinel_core.access.tokens import TokenRules, TokenVerifier
from sentinel_core.errors import SentinelError
from tests.search_server.access.secured import AUDIENCE, ISSUER, Issuer


@pytest.fixture
def issuer(tmp_path: Path) -> Issuer:
    return Issuer.create(tmp_path)


class Verifier:
    """A verifier whose clock the test moves."""

    def __init__(self, issuer: Issuer, **rules: Any) -> None:
        self.now = 1_000.0
        given = TokenRules(ISSUER, AUDIENCE, str(issuer.jwks), **rules)
        self.verifier = TokenVerifier(given, lambda: self.now)

    async def reason(self, token: str) -> str:
        try:
            await self.verifier.caller_of(token)
        except SentinelError as error:
            return error.reason
        return "OK"


@pytest.fixture
async def verifier(issuer: Issuer) -> AsyncIterator[Verifier]:
    verifier = Verifier(issuer)
    yield verifier
    verifier.verifier.close()


@pytest.mark.parametrize(
    "claims", [{"scope": 5}, {"scope": {"a": 1}}, {"exp": "soon"}, {"tenant": ["a"]}]
)
async def test_claims_of_another_type_are_refused(
    issuer: Issuer, verifier: Verifier, claims: dict[str, Any]
) -> None:
    expected = {"OK"} if "scope" in claims and claims["scope"] == {"a": 1} else set()
    assert await verifier.reason(issuer.token(**claims)) in {"CREDENTIALS_INVALID"} | expected
    assert await verifier.reason(issuer.token(scope=None)) == "OK"  # without a scope


async def test_any_algorithm_of_the_list_works(issuer: Issuer) -> None:
    verifier = Verifier(issuer, algorithms=("PS256", "RS512", "ES256"))
    for key, algorithm in (("rsa", "PS256"), ("rsa", "RS512"), ("ec", "ES256")):
        assert await verifier.reason(issuer.token(key, algorithm)) == "OK"
    assert await verifier.reason(issuer.token("rsa", "RS256")) == "CREDENTIALS_INVALID"
    verifier.verifier.close()


@pytest.mark.parametrize("content", ["[]", "null", '"x"', "{", '{"keys": [1]}', '{"keys": []}'])
async def test_keys_that_cannot_be_read(issuer: Issuer, verifier: Verifier, content: str) -> None:
    good = issuer.jwks.read_text()
    issuer.jwks.write_text(content)
    assert await verifier.reason(issuer.token()) == "CREDENTIALS_UNCHECKED"
    issuer.jwks.write_text(good)
    assert await verifier.reason(issuer.token()) == "CREDENTIALS_UNCHECKED"  # not for each call
    verifier.now += 6
    assert await verifier.reason(issuer.token()) == "OK"
    if content != '{"keys": []}':
        issuer.jwks.write_text(content)
        verifier.now += 301
        assert await verifier.reason(issuer.token(sub="another")) == "OK"  # by the keys from before


async def test_forged_tokens_do_not_pile_up(
    issuer: Issuer, verifier: Verifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = issuer.token()
    assert await verifier.reason(good) == "OK"
    forged = [issuer.token(sub=f"s{n}")[:-4] + "AAAA" for n in range(60)]
    answers = await asyncio.gather(*(verifier.reason(token) for token in forged))
    assert answers.count("CREDENTIALS_THROTTLED") == 60 - module._MOST_CHECKS
    assert answers.count("CREDENTIALS_INVALID") == module._MOST_CHECKS
    assert await verifier.reason(good) == "OK"
    assert await verifier.reason(issuer.token(sub="new")) == "OK"
