"""Check what the gateway has stored: the files of Milvus Lite, images, and rows that name images.

Of images that are stored by reference it reads the originals.

The command is `sentinel-gateway check`. Without `--repair` it changes only what a gateway does when
it opens Milvus Lite. With it, nothing is deleted either: what is damaged is set aside.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from pydantic import Field, ValidationError
from pydantic_settings import SettingsConfigDict

from search_server.image_uris.originals import Originals
from search_server.maintenance.library import LibraryError, with_library
from search_server.settings import GatewaySettings
from sentinel_core.calls import Deadline, together
from sentinel_core.errors import SentinelError, Unavailable
from sentinel_core.proxies import bypass_proxies_on_loopback
from sentinel_core.settings import print_settings_errors, refuse_secret_flags
from sentinel_store.collections import CollectionInfo
from sentinel_store.images import image_store
from sentinel_store.images.image_store import ImageStore, StoredImage
from sentinel_store.images.local_files import StoredFile
from sentinel_store.items import Row
from sentinel_store.milvus.store import MilvusStore

_CALL_TIMEOUT_S = 120.0
_ROWS_PER_PAGE = 500
_AT_ONCE = 8
_EVERY_FILE = "file:///"
_WEBP = (b"RIFF", b"WEBP")


class CheckSettings(GatewaySettings):
    """Check stored rows and images; with --repair, set aside what is damaged."""

    model_config = SettingsConfigDict(cli_prog_name="sentinel-gateway check")

    repair: bool = Field(
        False, description="Repair what can be repaired; what is damaged is set aside, not deleted."
    )
    quick: bool = Field(
        False,
        description="Look at names, sizes and logs only; do not read images, originals "
        "and segments.",
    )


@dataclass(slots=True)
class Report:
    """What was found.

    Attributes:
        problems: What is wrong still.
        repaired: What was repaired.
        notes: What may be as it is.
    """

    problems: list[str] = field(default_factory=list)
    repaired: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, problem: str, repaired: str = "") -> None:
        """Add a problem, or how it was repaired."""
        if repaired:
            self.repaired.append(f"{problem}; {repaired}")
        else:
            self.problems.append(problem)


def check_lite(folder: Path, report: Report, *, repair: bool, quick: bool) -> bool:
    """Check the files of Milvus Lite; return whether it can open them.

    Raises Unavailable if there are none, or another process has them open.
    """
    # Needs pyarrow and faiss, which a gateway in front of a server does without.
    from sentinel_store.milvus import lite_files, lite_repair  # noqa: PLC0415
    from sentinel_store.milvus.lite_database import LiteDatabase  # noqa: PLC0415
    from sentinel_store.milvus.lite_log import LogState  # noqa: PLC0415

    folder = folder.expanduser()
    if not folder.is_dir():
        raise Unavailable("STORE_UNAVAILABLE", f"there is no folder {folder}; check --milvus-uri")
    with LiteDatabase(folder).locked():
        found, damages = lite_files.inspect(folder, thorough=not quick)
        torn = [
            str(log.path.relative_to(folder))
            for files in found
            for logs in files.logs.values()
            for log in logs
            if log.state is LogState.TORN
        ]
        if repair:
            report.repaired += lite_repair.repair(folder, found, damages)
            _, damages = lite_files.inspect(folder, thorough=not quick)
        else:
            report.notes += [f"{path} ends in half a record" for path in torn]
        report.problems += [str(damage) for damage in damages]
    return not damages


class _StoreCheck:
    """Checks images, and then the rows that name them."""

    def __init__(
        self,
        store: MilvusStore,
        images: ImageStore,
        originals: Originals,
        report: Report,
        *,
        repair: bool,
        quick: bool,
    ) -> None:
        self._store = store
        self._images = images
        self._originals = originals
        self._report = report
        self._repair = repair
        self._quick = quick
        self._present: set[bytes] = set()
        self._named: set[bytes] = set()

    async def run(self) -> None:
        for start in range(0, len(image_store.SHARDS), _AT_ONCE):
            shards = image_store.SHARDS[start : start + _AT_ONCE]
            await asyncio.gather(*(self._check_shard(shard) for shard in shards))
        unfinished = len(await self._images.list_unfinished())
        if unfinished:
            self._note(f"{unfinished} files in drafts/ are being written, or a crash left them")
        for name in await self._store.list_collections(_deadline()):
            info = await self._store.describe_collection(
                name, _deadline(), foreign_ok=True, follow=False
            )
            if info is not None:
                await self._check_rows(info)
        orphans = len(self._present - self._named)
        if orphans:
            self._note(f"no item names {orphans} images; `collect-orphans` deletes such images")

    def _note(self, note: str) -> None:
        self._report.notes.append(note)

    async def _check_shard(self, shard: str) -> None:
        for aside in (False, True):
            for file in await self._images.list_shard(shard, aside=aside):
                await self._check_file(file)

    async def _check_file(self, file: StoredFile) -> None:
        digest = image_store.digest_of(file.name)
        if digest is None:
            self._note(f"{file.name} is not a file of Sentinel")
            return
        why = await self._wrong(file, digest)
        if why and self._repair:
            await self._images.set_damaged(file.name)
            self._report.add(f"{file.name} {why}", "it is moved to damaged/")
        elif why:
            self._report.add(f"{file.name} {why}")
        elif not file.name.endswith(".webp"):
            self._present.add(bytes.fromhex(digest))

    async def _wrong(self, file: StoredFile, digest: str) -> str:
        """Return what is wrong with an image or a thumbnail; empty if nothing is."""
        if not file.size:
            return "is empty"
        if self._quick:
            return ""
        image = StoredImage(file.name, file.size)
        if file.name.endswith(".webp"):
            head = await self._images.read_image(image, 0, 12) or b""
            return "" if (head[:4], head[8:12]) == _WEBP else "is not a WebP file"
        data = await self._images.read_image(image, 0, file.size)
        if data is None or hashlib.sha256(data).hexdigest() == digest:
            return ""
        return "has other bytes than its name says"

    async def _check_rows(self, info: CollectionInfo) -> None:
        async for rows in self._pages(info):
            incomplete = []
            for row in rows:
                why = _wrong_vector(row, info)
                if why:
                    self._report.add(f"item {row.id!r} of {info.name!r} {why}; store it again")
                if row.image and await self._is_missing(row):
                    incomplete.append(row)
            if self._repair and incomplete:
                await self._forget_content(info, incomplete)
            for row in incomplete:
                done = "importing it again stores the image" if self._repair else ""
                self._report.add(f"the image of item {row.id!r} of {info.name!r} is missing", done)
            if not self._quick:
                await self._check_originals(info, [row for row in rows if row.reference])

    async def _check_originals(self, info: CollectionInfo, rows: Sequence[Row]) -> None:
        for row, why in zip(rows, await together(map(self._why_gone, rows)), strict=True):
            if why:
                self._report.add(f"item {row.id!r} of {info.name!r}: {why}")

    async def _why_gone(self, row: Row) -> str:
        """Return what is wrong with an original; empty if nothing is."""
        try:
            await self._originals.read(row.reference, row.image)
        except SentinelError as error:
            return error.message
        return ""

    async def _forget_content(self, info: CollectionInfo, rows: Sequence[Row]) -> None:
        """Have the next import store these items again, instead of finding them unchanged."""
        # Gateways of a Milvus server may have written or deleted some since they were read.
        missing = {row.id: row.image for row in rows}
        now = await self._store.get(info, list(missing), _deadline(), include_vectors=True)
        # No content has this digest.
        forgotten = [replace(row, digest="") for row in now if row.image == missing[row.id]]
        if forgotten:
            await self._store.upsert(info, forgotten, _deadline())

    async def _is_missing(self, row: Row) -> bool:
        try:
            number = bytes.fromhex(row.image)
        except ValueError:  # not written by us
            return True
        self._named.add(number)
        if row.reference or number in self._present:
            return False
        # It may have been stored since its folder was listed.
        return await self._images.find_image(row.image) is None

    async def _pages(self, info: CollectionInfo) -> AsyncIterator[Sequence[Row]]:
        last = ""
        while True:
            rows = await self._store.page(
                info, "", last, _ROWS_PER_PAGE, _deadline(), include_vectors=True
            )
            yield rows
            if len(rows) < _ROWS_PER_PAGE:
                return
            last = rows[-1].id


def _wrong_vector(row: Row, info: CollectionInfo) -> str:
    vector = row.vector
    if vector is None or len(vector) != info.dimensions:
        return f"has no vector of {info.dimensions} numbers"
    if not np.isfinite(vector).all() or not vector.any():
        return "has a vector that cannot be searched"
    return ""


def _deadline() -> Deadline:
    return Deadline.within(_CALL_TIMEOUT_S)


async def check(settings: CheckSettings) -> Report:
    """Check everything; raise SentinelError if something cannot be reached."""
    report = Report()
    options = {"repair": settings.repair, "quick": settings.quick}
    uri = settings.milvus_uri
    if "://" not in uri and not check_lite(Path(uri), report, **options):
        report.notes.append("the rows were not checked, since Milvus Lite cannot be opened")
        return report
    async with AsyncExitStack() as stack:
        store = MilvusStore(
            uri,
            settings.milvus_token.get_secret_value(),
            settings.milvus_threads,
            tls=settings.milvus_tls(),
        )
        stack.push_async_callback(store.close)
        images = ImageStore(settings.object_store_uri)
        stack.callback(images.close)
        originals = Originals(
            [_EVERY_FILE],  # the operator may read what the gateway may not
            max_bytes=settings.max_image_bytes,
            timeout_s=settings.reference_timeout_seconds,
        )
        await _StoreCheck(store, images, originals, report, **options).run()
    return report


def run(arguments: list[str]) -> int:
    """Read the settings, check, print what was found.

    Returns 0 if nothing is wrong any more, 1 if something is, 2 if it could not check.
    """
    bypass_proxies_on_loopback()
    try:
        if refuse_secret_flags("sentinel-gateway check", CheckSettings, arguments):
            return 2
        settings = CheckSettings(_cli_parse_args=arguments)
    except ValidationError as error:
        print_settings_errors("check", error)
        return 2
    try:
        report = asyncio.run(check(with_library(settings, "check")))
    except (SentinelError, LibraryError, OSError) as error:
        print(f"check: {error}", file=sys.stderr)
        return 2
    for title, lines in (
        ("note", report.notes),
        ("repaired", report.repaired),
        ("problem", report.problems),
    ):
        for line in lines:
            print(f"{title}: {line}")
    print(f"{len(report.problems)} problems, {len(report.repaired)} repaired")
    if report.problems and not settings.repair:
        print("Run it again with --repair. What is damaged is set aside, not deleted.")
    return 1 if report.problems else 0
