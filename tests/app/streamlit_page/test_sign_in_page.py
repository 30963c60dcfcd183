"""Signing in with a key or at an identity provider, and what the page then offers."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from sentinel_app.streamlit_page.sign_in import _is_private
from sentinel_client import ClientConfig, Item, SentinelClient, Tls
from tests import photos
from tests.app.streamlit_page.conftest import Visitor, serving, visiting
from tests.app.streamlit_page.identity_provider import CLIENT_ID, CLIENT_SECRET, running_provider
from tests.search_server.access import secured
from tests.search_server.access.secured import Secured, sentinel

pytestmark = pytest.mark.timeout(240)
NAMES = ("album", "archive", "secret")


@dataclass(frozen=True)
class Page:
    """A running page before a gateway that asks for keys."""

    url: str
    log: Path


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """A gateway that asks for keys, with three collections of one item each."""
    with secured.running(tmp_path_factory.mktemp("secured")) as running:
        config = ClientConfig(tls=Tls(ca=running.pki.file("ca.pem")), api_key=running.key("owner"))
        with SentinelClient(running.gateway.address, config=config) as client:
            for name in NAMES:
                client.create_collection(name)
                [result] = client.upsert([Item(image=photos.photo("chelsea"))], collection=name)
                assert result.error is None
        yield running


@pytest.fixture(scope="module")
def page(system: Secured, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    folder = tmp_path_factory.mktemp("page")
    flags = ["--upload-limit", "write", "2", "3", "--upload-limit", "admin", "5", "7"]
    ca = system.pki.file("ca.pem")
    with serving(system.gateway.address, folder, *flags, SENTINEL_TLS_CA=ca) as url:
        yield Page(url, folder / "app.log")


def come(visitor: Visitor, url: str) -> None:
    visitor.page.goto(url)
    visitor.page.get_by_label("Key", exact=True).wait_for()


def sign_in(visitor: Visitor, key: str) -> None:
    visitor.page.get_by_label("Key", exact=True).fill(key)
    visitor.page.get_by_role("button", name="Sign in", exact=True).click()


def tabs(visitor: Visitor) -> list[str]:
    """Return the names of the tabs, once there are some."""
    visitor.page.get_by_role("tab").first.wait_for()
    visitor.idle()
    return [name.split()[-1] for name in visitor.page.get_by_role("tab").all_inner_texts()]


def collections(visitor: Visitor) -> list[str]:
    visitor.page.get_by_role("combobox", name="Collection").click()
    visitor.page.get_by_role("option").first.wait_for()
    names = visitor.page.get_by_role("option").all_inner_texts()
    visitor.page.keyboard.press("Escape")
    return sorted(names)


def stored_in(visitor: Visitor) -> str:
    """Return all that the browser keeps or shows of this visit."""
    kept = visitor.page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}])")
    cookies = str(visitor.page.context.cookies())
    return f"{visitor.page.url} {kept} {cookies} {visitor.page.content()}"


def test_a_key_opens_what_it_is_for_and_nothing_else(
    browser: Any, system: Secured, page: Page
) -> None:
    key = system.key("writer:album", "reader:archive")
    with visiting(browser) as visitor:
        come(visitor, page.url)
        assert visitor.page.get_by_role("tab").count() == 0
        sign_in(visitor, f"{key}x")
        visitor.page.get_by_text("this key is unknown, wrong or revoked").wait_for()
        sign_in(visitor, "no key at all")
        visitor.page.get_by_text("This is no key.").wait_for()
        sign_in(visitor, key)
        assert tabs(visitor) == ["Search", "Add"]
        assert collections(visitor) == ["album", "archive"]
        visitor.search("a cat")
        assert visitor.cards.count() == 1
        visitor.choose("archive")
        assert tabs(visitor) == ["Search"]
        visitor.search("a cat")
        secret = key.rpartition("_")[2]
        assert secret not in stored_in(visitor)
        assert secret not in page.log.read_text()
        visitor.page.get_by_text(f"Signed in as {key.split('_')[1]}").wait_for()
        visitor.page.get_by_role("button", name="Sign out").click()
        visitor.page.get_by_label("Key", exact=True).wait_for()
        expect(visitor.cards).to_have_count(0)
        expect(visitor.page).to_have_url(f"{page.url}/")


def test_a_key_serves_nobody_else(browser: Any, system: Secured, page: Page) -> None:
    with visiting(browser) as one, visiting(browser) as other:
        come(one, page.url)
        sign_in(one, system.key("reader:album"))
        assert collections(one) == ["album"]
        come(other, page.url)  # and is asked
        sign_in(other, system.key("reader:archive"))
        assert collections(other) == ["archive"]
        one.search("a cat")
        assert collections(one) == ["album"]
        one.page.get_by_role("button", name="Sign out").click()
        one.page.get_by_label("Key", exact=True).wait_for()
        other.search("a cat")
        assert collections(other) == ["archive"]


def test_a_revoked_key_must_be_replaced(browser: Any, system: Secured, page: Page) -> None:
    key = system.key("reader:album")
    with visiting(browser) as visitor:
        come(visitor, page.url)
        sign_in(visitor, key)
        visitor.search("a cat")
        sentinel("keys", "revoke", key.split("_")[1], "--file", str(system.keys_file))
        system.key("reader")  # who makes it waits until the gateway has read the file
        visitor.ask("a dog")
        visitor.page.get_by_text("this key is unknown, wrong or revoked").wait_for()
        expect(visitor.cards).to_have_count(0)
        sign_in(visitor, system.key("reader:archive"))
        assert collections(visitor) == ["archive"]


def test_limits_of_uploads_follow_the_scope(browser: Any, system: Secured, page: Page) -> None:
    for role, says in (("writer", "3 files and 2 MB at once"), ("owner", "7 files and 5 MB")):
        with visiting(browser) as visitor:
            come(visitor, page.url)
            sign_in(visitor, system.key(f"{role}:album"))
            visitor.page.get_by_role("tab", name="Add").click()
            visitor.page.get_by_text(says).wait_for()


def test_who_may_not_search_is_offered_uploads_only(
    browser: Any, system: Secured, page: Page
) -> None:
    with visiting(browser) as visitor:
        come(visitor, page.url)
        sign_in(visitor, system.key("read:album", "write:album", "read:secret"))
        assert tabs(visitor) == ["Add"]
        assert collections(visitor) == ["album"]
        expect(visitor.page.get_by_text("Minimum score")).to_have_count(0)
        visitor.upload(photos.photo("coffee"))
        visitor.page.get_by_role("button", name="Store 1 file").click()
        visitor.page.get_by_text("1 stored").wait_for()


def test_the_first_collection_is_for_those_who_may_create_it(
    browser: Any, system: Secured, page: Page
) -> None:
    with visiting(browser) as visitor:
        come(visitor, page.url)
        sign_in(visitor, system.key("writer", tenant="fresh"))
        visitor.page.get_by_text("There is no collection that you may use here.").wait_for()
        assert visitor.page.get_by_role("button", name="Create").count() == 0
        visitor.page.get_by_role("button", name="Sign out").click()
        visitor.page.get_by_label("Key", exact=True).wait_for()
        sign_in(visitor, system.key("owner:mine*", tenant="fresh"))
        name = visitor.page.get_by_label("Name", exact=True)
        expect(name).to_have_value("mine")
        name.fill("photos")
        visitor.page.get_by_role("button", name="Create").click()
        visitor.page.get_by_text("You may not create a collection of this name.").wait_for()
        name.fill("mine_2")
        visitor.page.get_by_role("button", name="Create").click()
        assert tabs(visitor) == ["Search", "Add"]
        assert collections(visitor) == ["mine_2"]


def test_a_page_with_its_own_key_asks_nobody(browser: Any, system: Secured, tmp_path: Path) -> None:
    ca, key = system.pki.file("ca.pem"), system.key("reader:archive")
    variables = {"SENTINEL_TLS_CA": ca, "SENTINEL_API_KEY": key}
    with (
        serving(system.gateway.address, tmp_path, **variables) as url,
        visiting(browser) as visitor,
    ):
        visitor.open(url)
        assert tabs(visitor) == ["Search"]
        assert collections(visitor) == ["archive"]
        assert visitor.page.get_by_role("button", name="Sign out").count() == 0
        assert key not in stored_in(visitor)
        sentinel("keys", "revoke", key.split("_")[1], "--file", str(system.keys_file))
        system.key("reader")  # who makes it waits until the gateway has read the file
        visitor.page.reload()
        visitor.page.get_by_text("this key is unknown, wrong or revoked").wait_for()
        expect(visitor.page.get_by_label("Key", exact=True)).to_have_count(0)


def test_an_identity_provider_signs_people_in(
    browser: Any, system: Secured, tmp_path: Path
) -> None:
    with running_provider(system.issuer) as provider:
        section = f"""
            [auth]
            redirect_uri = "http://127.0.0.1:{{port}}/oauth2callback"
            cookie_secret = "{secrets.token_hex(16)}"
            expose_tokens = ["access"]
            [auth.acme]
            client_id = "{CLIENT_ID}"
            client_secret = "{CLIENT_SECRET}"
            server_metadata_url = "{provider.url}/.well-known/openid-configuration"
            """
        (tmp_path / ".streamlit").mkdir()
        (tmp_path / ".streamlit" / "secrets.toml").write_text(section)
        # The page's own key is for nobody while there is a provider.
        variables = {
            "HOME": str(tmp_path),
            "SENTINEL_TLS_CA": system.pki.file("ca.pem"),
            "SENTINEL_API_KEY": system.key("owner"),
        }
        provider.claims = {"scope": "openid reader:album writer:archive"}
        with (
            serving(system.gateway.address, tmp_path, **variables) as url,
            visiting(browser) as visitor,
        ):
            come(visitor, url)
            with_provider = visitor.page.get_by_role("button", name="Sign in with acme")
            with_provider.click()
            visitor.page.get_by_role("link", name="Continue as Ann").click()
            assert collections(visitor) == ["album", "archive"]
            visitor.page.get_by_text(re.compile("Signed in as ann@.?example.com")).wait_for()
            assert tabs(visitor) == ["Search"]
            visitor.search("a cat")
            visitor.choose("archive")
            assert tabs(visitor) == ["Search", "Add"]
            [token] = provider.tokens
            assert token not in visitor.page.content()
            assert token not in (tmp_path / "app.log").read_text()
            visitor.page.get_by_role("button", name="Sign out").click()
            with_provider.wait_for()
            visitor.page.reload()
            with_provider.wait_for()
            # A token that has expired meanwhile.
            provider.claims["exp"] = 1
            with_provider.click()
            visitor.page.get_by_role("link", name="Continue as Ann").click()
            visitor.page.get_by_text("the token has expired").wait_for()


@pytest.mark.parametrize(
    ("url", "private"),
    [
        ("https://photos.example.com/", True),
        ("http://localhost:8501/", True),
        ("http://127.0.0.1:8501/?q=a", True),
        ("http://[::1]:8501/", True),
        ("http://photos.example.com/", False),
        ("http://192.168.0.7:8501/", False),
        ("http://localhost.example.com/", False),
        ("", False),
    ],
)
def test_keys_are_typed_into_encrypted_pages_only(url: str, private: bool) -> None:
    assert _is_private(url) is private
