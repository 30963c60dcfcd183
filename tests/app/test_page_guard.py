"""The photo page is for its own visitors: not for other web sites, frames, or slow strangers."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from sentinel_client import SentinelClient
from tests.app.conftest import Guest, PhotoApp, serving_photos, window

pytestmark = pytest.mark.timeout(240)


def ask(
    app: PhotoApp, path: str, method: str = "GET", body: str | None = None, **headers: str
) -> http.client.HTTPResponse:
    place = app.url.removeprefix("http://")
    connection = http.client.HTTPConnection(place, timeout=60)
    connection.putrequest(method, path, skip_host=True)
    sent = {"Host": place, **{name.replace("_", "-"): value for name, value in headers.items()}}
    if body is not None:
        sent["Content-Length"] = str(len(body))
    for name, value in sent.items():
        connection.putheader(name, value)
    connection.endheaders(body.encode() if body is not None else None)
    return connection.getresponse()


@pytest.mark.parametrize("path", ["/", "/static/main.js", "/api/state", "/health"])
@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost:1", 200), ("[::1]:8501", 200), ("evil.test", 403), ("127.0.0.1.evil.test", 403)],
)
def test_it_answers_to_its_own_names(
    photo_app: PhotoApp, path: str, host: str, status: int
) -> None:
    assert ask(photo_app, path, Host=host).status == status


@pytest.mark.parametrize("path", ["/", "/static/app.css", "/api/state", "/api/nothing", "/none"])
def test_every_answer_forbids_frames_foreign_code_and_guesses(
    photo_app: PhotoApp, path: str
) -> None:
    headers = ask(photo_app, path).headers
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy  # nothing from elsewhere
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"


WRITES = (
    "page",
    "delete",
    "undo",
    "create",
    "query-image",
    "query-image-of",
    "add?c=photos&name=a",
)


@pytest.mark.parametrize("path", WRITES)
def test_another_site_writes_nothing(photo_app: PhotoApp, path: str) -> None:
    own = {"X_Sentinel_Page": "1"}
    body = json.dumps({"collection": "photos"})
    place = photo_app.url.removeprefix("http://")
    for headers in (
        {"Origin": "http://evil.test", **own},
        {"Origin": "null", **own},
        {"Sec_Fetch_Site": "cross-site", **own},
        {"Sec_Fetch_Site": "same-site", **own},
        {"Origin": f"http://{place}"},  # a form cannot send our header
        {},
    ):
        assert ask(photo_app, f"/api/{path}", "POST", body, **headers).status == 403


def test_another_site_reads_nothing(photo_app: PhotoApp) -> None:
    for path in ("state", "thumbnail?c=photos&id=a", "original?c=photos&id=a"):
        answer = ask(photo_app, f"/api/{path}", Sec_Fetch_Site="cross-site", Sec_Fetch_Dest="image")
        assert answer.status == 403
    preflight = ask(
        photo_app, "/api/page", "OPTIONS", Origin=photo_app.url, Sec_Fetch_Site="cross-site"
    )
    assert preflight.status == 403
    assert not any(name.lower().startswith("access-control") for name in preflight.headers)


def test_a_foreign_page_cannot_frame_it(browser: Any, photo_app: PhotoApp, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.html"
    foreign.write_text(f"<iframe src='{photo_app.url}'></iframe>")
    with window(browser, Guest, expected="frame") as guest:
        with guest.page.expect_event("console", lambda one: "frame-ancestors" in one.text):
            guest.page.goto(foreign.as_uri())
        assert guest.page.frames[-1].locator("#photos").count() == 0


@pytest.mark.parametrize(
    "path",
    [
        "/static/../serve.py",
        "/static/%2e%2e/serve.py",
        "/static/..%2f..%2fserve.py",
        "/static//etc/passwd",
        f"/api/original?c=photos&id={quote('../../etc/passwd')}",
        f"/api/query-image?id={quote('../../../etc/passwd')}",
        "/api/picture?c=photos&id=a&side=99999",
        "/api/picture?c=photos&id=a&side=" + "9" * 5000,
    ],
)
def test_no_path_leads_to_files(photo_app: PhotoApp, path: str) -> None:
    answer = ask(photo_app, path)
    assert answer.status in (400, 404, 410)
    assert b"root:" not in answer.read()


@pytest.mark.parametrize(
    "body",
    [
        "",
        "[]",
        "{",
        "[" * 100_000,
        '{"collection": 1}',
        '{"collection": "photos", "terms": "x"}',
        '{"collection": "photos", "terms": [1]}',
        '{"collection": "photos", "terms": [{"kind": "text", "value": 1}]}',
        '{"collection": "photos", "terms": [{"kind": "uri", "value": "file:///etc/passwd"}]}',
        '{"collection": "photos", "terms": [{"kind": "text", "value": "a", "weight": "x"}]}',
        '{"collection": "photos", "terms": [{"kind": "text", "value": "a", "weight": 1e999}]}',
        '{"collection": "photos", "filters": [["path", "is"]]}',
        '{"collection": "photos", "filters": [["none", "is", "x"]]}',
        '{"collection": "photos", "filters": [["place", "near", "1,2"]]}',
        '{"collection": "photos", "filters": [["place", "near", "nan,2,3"]]}',
        '{"collection": "photos", "filters": [["taken_at", "ge", "never"]]}',
        '{"collection": "photos", "filters": [["bytes", "ge", "1e400"]]}',
        '{"collection": "photos", "before": "0"}',
        '{"collection": "photos", "page": "invented"}',
        '{"collection": "photos", "terms": [{"kind": "text", "value": "\\ud800"}]}',
        '{"collection": "photos", "filters": [["bytes", "ge", "1e300"]]}',
    ],
)
def test_odd_requests_are_refused_in_words(photo_app: PhotoApp, body: str) -> None:
    answer = ask(photo_app, "/api/page", "POST", body, X_Sentinel_Page="1")
    assert answer.status == 400
    assert json.loads(answer.read())["message"]


def test_bodies_are_bounded(photo_app: PhotoApp) -> None:
    headers = {"X_Sentinel_Page": "1", "Content_Length": str(2**30)}
    assert ask(photo_app, "/api/page", "POST", **headers).status == 413


def test_the_key_of_the_gateway_stays_on_the_server(tmp_path: Path, photo_app: PhotoApp) -> None:
    secret = "sk-0123456789abcdef"
    with serving_photos(photo_app.gateway, tmp_path, SENTINEL_API_KEY=secret) as url:
        app = PhotoApp(url, photo_app.gateway)
        for path in ("/", "/api/state", "/static/main.js", "/api/item?c=photos&id=none"):
            answer = ask(app, path)
            assert secret not in answer.read().decode() + str(answer.headers)


def test_a_silent_connection_is_closed(photo_app: PhotoApp) -> None:
    host, port = photo_app.url.removeprefix("http://").split(":")
    place = (host, int(port))
    with (
        socket.create_connection(place, timeout=60) as silent,
        socket.create_connection(place, timeout=60) as later,
    ):
        silent.sendall(b"GET / HT")
        later.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = b""
        while not answer.endswith(b"\r\n\r\nok"):
            answer += later.recv(4096)
        later.sendall(b"GET / HT")
        assert silent.recv(100) == b""
        assert later.recv(100) == b""


def test_nothing_is_loaded_from_elsewhere(browser: Any, photo_app: PhotoApp) -> None:
    asked: list[str] = []
    with window(browser, Guest) as guest:
        guest.page.on("request", lambda one: asked.append(one.url))
        guest.open(photo_app, "?q=a+cat")
        guest.tiles.last.scroll_into_view_if_needed()
    assert asked
    assert all(one.startswith(photo_app.url) for one in asked)


def test_the_page_creates_the_first_collection(tmp_path: Path, photo_app: PhotoApp) -> None:
    body = json.dumps({"collection": "made_here"})
    assert ask(photo_app, "/api/create", "POST", body, X_Sentinel_Page="1").status == 200
    with SentinelClient(photo_app.gateway) as client:
        names = {field.name for field in client.get_collection("made_here").fields}
        client.delete_collection("made_here")
    assert {"path", "taken_at", "camera", "place", "keywords"} <= names
