"""`sentinel-gateway collect-orphans`: settings → parts → one run → a line of counts."""

from __future__ import annotations

import asyncio
import re
import sys
from datetime import timedelta
from typing import Annotated

from pydantic import BeforeValidator, Field, ValidationError
from pydantic_settings import SettingsConfigDict

from search_server.maintenance.orphans import OrphanCollector, OrphanReport
from search_server.settings import GatewaySettings
from sentinel_core.errors import SentinelError
from sentinel_core.settings import print_settings_errors
from sentinel_store.images.image_store import ObjectStore
from sentinel_store.milvus.store import MilvusStore

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def _duration(text: object) -> object:
    """Return the duration that `90s`, `30m`, `1h` or `2d` says."""
    matched = re.fullmatch(r"(\d+)([smhd])", text) if isinstance(text, str) else None
    return timedelta(seconds=int(matched[1]) * _UNITS[matched[2]]) if matched else text


class OrphanSettings(GatewaySettings):
    """Move pictures that no item names aside; remove those that an earlier run moved aside."""

    model_config = SettingsConfigDict(cli_prog_name="sentinel-gateway collect-orphans")

    older_than: Annotated[timedelta, BeforeValidator(_duration)] = Field(
        timedelta(hours=1),
        description="Age from which a picture may be an orphan, as 90s, 30m, 1h or 2d; above "
        "--write-timeout-seconds, and above the time a bulk-index takes to import what it wrote.",
    )
    dry_run: bool = Field(False, description="Only count.")


async def collect(settings: OrphanSettings) -> OrphanReport:
    """Run once with these settings.

    Raises:
        SentinelError: Milvus or the object store failed.
    """
    store = MilvusStore(
        settings.milvus_uri, settings.milvus_token.get_secret_value(), settings.milvus_threads
    )
    try:
        objects = ObjectStore(settings.object_store_uri)
        try:
            collector = OrphanCollector(
                store, objects, older_than=settings.older_than, dry_run=settings.dry_run
            )
            return await collector.run()
        finally:
            objects.close()
    finally:
        await store.close()


def run(arguments: list[str]) -> int:
    """Read the settings, run once, say what was done; return the exit code."""
    try:
        settings = OrphanSettings(_cli_parse_args=arguments)
    except ValidationError as error:
        print_settings_errors("collect-orphans", error)
        return 2
    if settings.older_than.total_seconds() <= settings.write_timeout_seconds:
        print(
            f"collect-orphans: --older-than must be above the {settings.write_timeout_seconds:g} s "
            "that a write may take, or pictures that are being stored look like orphans",
            file=sys.stderr,
        )
        return 2
    try:
        report = asyncio.run(collect(settings))
    except SentinelError as error:
        print(f"collect-orphans: {error}", file=sys.stderr)
        return 1
    print(_told(report, dry_run=settings.dry_run))
    return 0


def _told(report: OrphanReport, *, dry_run: bool) -> str:
    would = "would be " if dry_run else ""
    return (
        f"{report.looked_at} files: {report.set_aside} ({report.set_aside_bytes} bytes) "
        f"{would}moved aside, {report.removed} ({report.removed_bytes} bytes) {would}removed, "
        f"{report.waiting} aside for too short a time, {report.brought_back} {would}brought back"
    )
