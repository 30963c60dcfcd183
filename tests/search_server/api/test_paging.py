"""Page tokens by themselves: read where they were made, refused wherever anything differs."""

from __future__ import annotations

import base64
import hashlib
import hmac
import subprocess
import sys

import pytest

from search_server.api.page_tokens import PageTokens
from search_server.settings import GatewaySettings
from sentinel_core.errors import InvalidArgument

REQUEST = b"SearchPage\0a cat"


class Clock:
    """Seconds since 1970 that move when told to."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tokens(clock: Clock) -> PageTokens:
    return PageTokens(b"key", 3600.0, clock)


def refusal(tokens: PageTokens, token: str, request: bytes = REQUEST) -> str:
    with pytest.raises(InvalidArgument) as caught:
        tokens.read(token, request)
    assert caught.value.field == "page_token"
    return caught.value.reason


@pytest.mark.parametrize("position", [b"x", b"", bytes(range(256)), b"y" * 100_000])
def test_a_token_gives_back_its_position(tokens: PageTokens, position: bytes) -> None:
    assert tokens.read(tokens.make(position, REQUEST), REQUEST) == position


def test_a_gateway_of_another_version_refuses_it(tokens: PageTokens, clock: Clock) -> None:
    body = int(clock.now * 1000).to_bytes(8, "big") + b"position"
    tag = hmac.digest(b"key", hashlib.sha256(REQUEST).digest() + body, "sha256")
    former = base64.urlsafe_b64encode(tag + body).decode()
    assert refusal(tokens, former) == "PAGE_TOKEN_INVALID"


def test_the_empty_token_is_the_beginning(tokens: PageTokens) -> None:
    assert tokens.read("", REQUEST) == b""


@pytest.mark.parametrize("position", [b"", b"12", b"123", b"1234"])  # every kind of padding
def test_every_flipped_bit_is_noticed(tokens: PageTokens, position: bytes) -> None:
    token = tokens.make(position, REQUEST).encode()
    for bit in range(8 * len(token)):
        flipped = bytearray(token)
        flipped[bit // 8] ^= 1 << bit % 8
        assert refusal(tokens, flipped.decode("latin-1")) == "PAGE_TOKEN_INVALID", bit
    assert tokens.read(token.decode(), REQUEST) == position


def test_every_flipped_bit_under_the_base64_is_noticed(tokens: PageTokens) -> None:
    raw = base64.urlsafe_b64decode(tokens.make(b"position", REQUEST))
    for bit in range(8 * len(raw)):
        flipped = bytearray(raw)
        flipped[bit // 8] ^= 1 << bit % 8
        token = base64.urlsafe_b64encode(flipped).decode()
        assert refusal(tokens, token) == "PAGE_TOKEN_INVALID", bit


def test_a_cut_or_extended_token_is_noticed(tokens: PageTokens) -> None:
    token = tokens.make(b"position", REQUEST)
    for length in range(1, len(token)):
        assert refusal(tokens, token[:length]) == "PAGE_TOKEN_INVALID"
    for more in ("A", "AAAA", "=", "\n", " ", "é", token):
        assert refusal(tokens, token + more) == "PAGE_TOKEN_INVALID"


def test_another_request_or_key_is_noticed(tokens: PageTokens, clock: Clock) -> None:
    token = tokens.make(b"position", REQUEST)
    assert refusal(tokens, token, b"SearchPage\0a dog") == "PAGE_TOKEN_INVALID"
    assert refusal(PageTokens(b"other", 3600.0, clock), token) == "PAGE_TOKEN_INVALID"


def test_what_is_moved_from_request_to_position_is_noticed(tokens: PageTokens) -> None:
    """The two are sealed one by one, not as one string."""
    raw = base64.urlsafe_b64decode(tokens.make(b"AB", b"CD"))
    assert refusal(tokens, base64.urlsafe_b64encode(raw + b"C").decode(), b"D") == (
        "PAGE_TOKEN_INVALID"
    )


def test_a_token_expires(tokens: PageTokens, clock: Clock) -> None:
    token = tokens.make(b"position", REQUEST)
    clock.now += 3600.0
    assert tokens.read(token, REQUEST) == b"position"
    clock.now += 0.01
    assert refusal(tokens, token) == "PAGE_TOKEN_EXPIRED"
    # A token of another request is nobody's to continue, however old.
    assert refusal(tokens, token, b"other") == "PAGE_TOKEN_INVALID"


def test_replicas_agree_on_the_key_unless_they_have_other_settings() -> None:
    first = GatewaySettings(milvus_uri="http://milvus:19530", milvus_token="root:a")
    same = GatewaySettings(milvus_uri="http://milvus:19530", milvus_token="root:a", port=1)
    others = [
        GatewaySettings(milvus_uri="http://other:19530", milvus_token="root:a"),
        GatewaySettings(milvus_uri="http://milvus:19530", milvus_token="root:b"),
        GatewaySettings(
            milvus_uri="http://milvus:19530", milvus_token="root:a", page_token_secret="s"
        ),
    ]
    assert first.page_token_key() == same.page_token_key()
    assert len({settings.page_token_key() for settings in (first, *others)}) == 4


def test_on_lite_the_key_is_random_and_stays_the_same() -> None:
    lite = GatewaySettings()
    assert lite.page_token_key() == GatewaySettings().page_token_key()
    assert len(lite.page_token_key()) == 32
    assert b"milvus.db" not in lite.page_token_key()
    code = "from search_server.settings import GatewaySettings as S; print(S().page_token_key())"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert other.stdout.decode().strip() != str(lite.page_token_key())
    assert GatewaySettings(page_token_secret="s").page_token_key() == b"s"


@pytest.mark.parametrize(
    ("uri", "token", "secret", "weak"),
    [
        ("http://milvus:19530", "", "", True),
        ("http://milvus:19530", "root:a", "", False),
        ("http://milvus:19530", "", "s", False),
        ("milvus.db", "", "", False),
    ],
)
def test_keys_that_can_be_guessed_are_known(uri: str, token: str, secret: str, weak: bool) -> None:
    settings = GatewaySettings(milvus_uri=uri, milvus_token=token, page_token_secret=secret)
    assert settings.page_tokens_can_be_forged() is weak
