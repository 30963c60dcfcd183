"""Add photos by choosing and dropping files and zips: progress, failures by name, limits."""

from __future__ import annotations

import http.client
import io
import json
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from sentinel_client import SentinelClient
from sentinel_client.importers.photo_fields import PHOTO_FIELDS
from tests import photos
from tests.app.conftest import Guest, PhotoApp
from tests.app.test_searching import transfer
from tests.waiting import until

pytestmark = pytest.mark.timeout(240)

PATHS = photos.all_photos()[:3]


@pytest.fixture
def fresh(photo_app: PhotoApp) -> Iterator[str]:
    """An empty collection."""
    with SentinelClient(photo_app.gateway) as client:
        fields = client.get_collection("photos").fields
        client.create_collection("fresh", fields)
        yield "fresh"
        client.delete_collection("fresh")


def zipped(*entries: tuple[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return out.getvalue()


def post(app: PhotoApp, query: str, body: bytes, **headers: str) -> http.client.HTTPResponse:
    """Send an upload as the page does."""
    connection = http.client.HTTPConnection(app.url.removeprefix("http://"), timeout=60)
    connection.request("POST", f"/api/add?{query}", body, {"X-Sentinel-Page": "1", **headers})
    return connection.getresponse()


def lines(answer: http.client.HTTPResponse) -> list[dict[str, str]]:
    return [json.loads(line) for line in answer.read().splitlines()]


def test_files_and_zips_are_stored_and_failures_named(
    guest: Guest, photo_app: PhotoApp, fresh: str, tmp_path: Path
) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    inside = [(f"trip/{path.name}", path.read_bytes()) for path in photos.all_photos()[3:5]]
    (tmp_path / "more.zip").write_bytes(zipped(*inside, ("trip/bad.png", b"x")))
    guest.open(photo_app, f"?c={fresh}")
    with guest.page.expect_file_chooser() as chooser:
        guest.page.get_by_role("button", name="Add photos").last.click()
    chooser.value.set_files([*PATHS, tmp_path / "broken.jpg", tmp_path / "more.zip"])
    panel = guest.page.get_by_role("status", name="Added photos")
    expect(panel).to_contain_text("Added, with failures")
    told = panel.inner_text()
    assert "5 of 5 files · 5 stored" in told
    assert "2 failed" in told
    assert "broken.jpg" in told
    assert "more.zip/trip/bad.png" in told
    expect(guest.tiles).to_have_count(5)
    with SentinelClient(photo_app.gateway) as client:
        paths = {item.fields["path"] for item in client.list_items(collection=fresh)}
    assert "more.zip/trip/" + inside[0][0].split("/")[1] in paths
    guest.shot(f"added-{guest.page.viewport_size['width']}")


def test_files_are_dropped_anywhere(desktop: Guest, photo_app: PhotoApp, fresh: str) -> None:
    desktop.open(photo_app, f"?c={fresh}")
    moved = transfer(desktop, PATHS[0])
    desktop.page.dispatch_event("body", "dragenter", {"dataTransfer": moved})
    area = desktop.page.locator(".zone", has_text="Store it").bounding_box()
    assert area
    place = {"clientX": area["x"] + 40, "clientY": area["y"] + 40, "dataTransfer": moved}
    desktop.page.dispatch_event("body", "dragover", place)
    desktop.page.dispatch_event("body", "drop", place)
    expect(desktop.tiles).to_have_count(1)
    assert desktop.page.locator("#veil").is_hidden()


def test_an_upload_knows_what_the_camera_wrote(photo_app: PhotoApp) -> None:
    from PIL import Image

    picture = Image.open(PATHS[0], formats=["PNG"]).convert("RGB").resize((60, 40))
    exif = Image.Exif()
    exif[0x010F], exif[0x0110] = "Canon", "Canon EOS R6"
    exif.get_ifd(0x8769)[0x9003] = "2021:06:05 14:03:02"
    out = io.BytesIO()
    picture.save(out, "JPEG", exif=exif)
    with SentinelClient(photo_app.gateway) as client:
        client.create_collection("camera", PHOTO_FIELDS)
        answer = post(photo_app, "c=camera&name=a.jpg", out.getvalue())
        (line,) = lines(answer)
        assert line["outcome"] == "stored"
        fields = client.get_items([line["id"]], collection="camera").items[0].fields
        client.delete_collection("camera")
    assert str(fields["taken_at"]).startswith("2021-06-05 14:03:02")
    assert fields["camera"] == "Canon EOS R6"
    assert (fields["width"], fields["height"]) == (60, 40)


def test_one_bad_file_says_why_and_the_same_one_is_there_before(
    photo_app: PhotoApp, fresh: str
) -> None:
    picture = PATHS[0].read_bytes()
    assert lines(post(photo_app, f"c={fresh}&name=a.png", picture))[0]["outcome"] == "stored"
    assert lines(post(photo_app, f"c={fresh}&name=a.png", picture))[0]["outcome"] == "unchanged"
    (line,) = lines(post(photo_app, f"c={fresh}&name=a.png", b""))
    assert (line["outcome"], line["message"]) == ("failed", "it is empty")


def test_a_photo_that_is_added_again_is_not_deleted_after_all(
    photo_app: PhotoApp, fresh: str
) -> None:
    picture = PATHS[0].read_bytes()
    (line,) = lines(post(photo_app, f"c={fresh}&name=a.png", picture))
    place = photo_app.url.removeprefix("http://")
    connection = http.client.HTTPConnection(place, timeout=60)
    body = json.dumps({"collection": fresh, "ids": [line["id"]]})
    connection.request("POST", "/api/delete", body, {"X-Sentinel-Page": "1"})
    assert connection.getresponse().status == 200
    asked = f"/api/item?c={fresh}&id={line['id']}"

    def status() -> int:
        again = http.client.HTTPConnection(place, timeout=60)
        again.request("GET", asked)
        return again.getresponse().status

    assert status() == 404  # hidden
    assert lines(post(photo_app, f"c={fresh}&name=a.png", picture))[0]["outcome"] == "unchanged"
    assert status() == 200


@pytest.mark.parametrize(
    ("query", "length", "status"),
    [
        ("name=a.png", str(17 * 2**20), 413),  # larger than a picture may be
        ("name=a.zip", str(193 * 2**20), 413),  # larger than an upload may be
        ("name=a.png", "many", 411),
        ("name=a.png", "9" * 40, 411),
    ],
)
def test_the_size_is_checked_before_anything_is_read(
    photo_app: PhotoApp, fresh: str, query: str, length: str, status: int
) -> None:
    headers = {"X-Sentinel-Page": "1", "Content-Length": length}
    connection = http.client.HTTPConnection(photo_app.url.removeprefix("http://"), timeout=60)
    connection.putrequest("POST", f"/api/add?c={fresh}&{query}")
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    # h11 itself refuses a length that is no number.
    assert answer.status in (status, 400 if status == 411 else status)


def test_a_bomb_is_refused_by_name(photo_app: PhotoApp, fresh: str) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros.png", bytes(64 * 2**20))
    (line,) = lines(post(photo_app, f"c={fresh}&name=bomb.zip", out.getvalue()))
    assert line["outcome"] == "failed"
    assert "unpack to" in line["message"]


def test_space_of_uploads_is_bounded_and_freed(photo_app: PhotoApp, fresh: str) -> None:
    """E5: many uploads at once that never end."""
    place = photo_app.url.removeprefix("http://")
    size = 150 * 2**20

    def begin() -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection(place, timeout=60)
        connection.putrequest("POST", f"/api/add?c={fresh}&name=a.zip")
        connection.putheader("X-Sentinel-Page", "1")
        connection.putheader("Content-Length", str(size))
        connection.endheaders()
        connection.send(b"PK")
        return connection

    first = begin()

    def refused() -> bool:
        second = begin()
        second.sock.settimeout(2)
        try:
            return second.getresponse().status == 503
        except TimeoutError:
            return False
        finally:
            second.close()

    until(refused, 30)
    first.close()  # the tab was closed
    started = time.monotonic()
    picture = PATHS[0].read_bytes()

    def stored() -> bool:
        return lines(post(photo_app, f"c={fresh}&name=b.png", picture))[0].get("outcome") in (
            "stored",
            "unchanged",
        )

    until(stored, 30)
    assert time.monotonic() - started < 30
