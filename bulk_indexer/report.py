"""What a run came to: counts, reasons, and one file with everything that is not indexed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from bulk_indexer.plan import Plan
from bulk_indexer.run_folder import RunFolder, shard_file
from bulk_indexer.shard_actor import ShardReport

FAILURES_FILE = "failures.jsonl"


@dataclass(frozen=True, slots=True)
class Summary:
    """A run in numbers, this time and before together.

    Attributes:
        rows: Items that have a row; each shard counts its own.
        failures: Entries that have none, by reason; all are in the failures file.
        unfinished: Shards that are still to do.
    """

    entries: int
    shards: int
    rows: int
    duplicates: int
    image_bytes: int
    failures: dict[str, int]
    unfinished: int


def write_report(folder: RunFolder, plan: Plan) -> Summary:
    """Gather the failures in one file, a manifest of what to repair; return the summary."""
    done = sorted(folder.numbers("done"))
    reports = [_report(folder, shard) for shard in done]
    reasons = _reasons(folder, [report.shard for report in reports if report.failures])
    return Summary(
        entries=plan.entries,
        shards=plan.shards,
        rows=sum(report.rows for report in reports),
        duplicates=sum(report.duplicates for report in reports),
        image_bytes=sum(report.image_bytes for report in reports),
        failures=dict(reasons),
        unfinished=plan.shards - len(done),
    )


def _report(folder: RunFolder, shard: int) -> ShardReport:
    return ShardReport(**json.loads(folder.read(shard_file("done", shard))))


def _reasons(folder: RunFolder, shards: Sequence[int]) -> Counter[str]:
    """Write the failures file and count its reasons in one pass."""
    reasons: Counter[str] = Counter()
    with folder.open_for_writing(FAILURES_FILE) as file:
        for shard in shards:
            lines = folder.read(shard_file("failures", shard))
            file.write(lines)
            reasons.update(json.loads(line)["error_reason"] for line in lines.splitlines())
    return reasons
