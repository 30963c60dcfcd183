"""The command `sentinel-gateway collect-orphans`: read settings, run once, print the counts."""

from __future__ import annotations

import asyncio
import re
import sys
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Annotated

from pydantic import BeforeValidator, Field, ValidationError
from pydantic_settings import SettingsConfigDict

from search_server.maintenance.orphans import OrphanCollector, OrphanReport
from search_server.settings import GatewaySettings
from sentinel_core.errors import SentinelError
from sentinel_core.settings import print_settings_errors
from sentinel_store.images.image_store import ImageStore
from sentinel_store.milvus.store import MilvusStore

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def _duration(text: object) -> object:
    """Parse a duration such as `90s`, `30m`, `1h` or `2d`; leave anything else to pydantic."""
    matched = re.fullmatch(r"(\d+)([smhd])", text) if isinstance(text, str) else None
    return timedelta(seconds=int(matched[1]) * _UNITS[matched[2]]) if matched else text


class OrphanSettings(GatewaySettings):
    """Move images that no item names aside; delete those that an earlier run moved aside."""

    model_config = SettingsConfigDict(cli_prog_name="sentinel-gateway collect-orphans")

    older_than: Annotated[timedelta, BeforeValidator(_duration)] = Field(
        timedelta(hours=1),
        description="Youngest age of an orphan, as 90s, 30m, 1h or 2d; must be longer than "
        "--write-timeout-seconds and than a bulk-index needs to import the rows it wrote.",
    )
    dry_run: bool = Field(False, description="Only count.")


async def collect(settings: OrphanSettings) -> OrphanReport:
    """Run once; raise SentinelError if Milvus or the object store failed."""
    async with AsyncExitStack() as stack:
        store = MilvusStore(
            settings.milvus_uri, settings.milvus_token.get_secret_value(), settings.milvus_threads
        )
        stack.push_async_callback(store.close)
        images = ImageStore(settings.object_store_uri)
        stack.callback(images.close)
        collector = OrphanCollector(
            store, images, older_than=settings.older_than, dry_run=settings.dry_run
        )
        return await collector.run()


def run(arguments: list[str]) -> int:
    """Read the settings, run once, print the counts; return the exit code."""
    try:
        settings = OrphanSettings(_cli_parse_args=arguments)
    except ValidationError as error:
        print_settings_errors("collect-orphans", error)
        return 2
    if settings.older_than.total_seconds() <= settings.write_timeout_seconds:
        print(
            f"collect-orphans: --older-than must be above the {settings.write_timeout_seconds:g} s "
            "that a write may take, or images that are being stored look like orphans",
            file=sys.stderr,
        )
        return 2
    try:
        report = asyncio.run(collect(settings))
    except SentinelError as error:
        print(f"collect-orphans: {error}", file=sys.stderr)
        return 1
    print(_summary(report, dry_run=settings.dry_run))
    return 0


def _summary(report: OrphanReport, *, dry_run: bool) -> str:
    would = "would be " if dry_run else ""
    return (
        f"{report.looked_at} files: {report.set_aside} ({report.set_aside_bytes} bytes) "
        f"{would}moved aside, {report.removed} ({report.removed_bytes} bytes) {would}removed, "
        f"{report.waiting} not aside for long enough, {report.brought_back} {would}brought back"
    )
