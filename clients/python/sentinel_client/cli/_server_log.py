"""Read the log of a server process for people, and keep it small."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

# A log and the part before it: at most twice this, and what a server writes between two looks.
MAX_LOG_BYTES = 4 * 1024 * 1024
_TAIL_LINES = 15
_TAIL_BYTES = 64 * 1024
# The notes of gRPC itself. What they say, our servers say in plain words.
_NOTE_OF_GRPC = re.compile(r"[IWEF]\d{4} \d\d:\d\d:\d\d")


def last_words(log: Path) -> str:
    """Return why a server ended, as its log says: its errors, or else its last lines."""
    lines, errors = [], []
    for line, record in _tail(log):
        if record is None:
            lines.append(line)
            errors.append(line)
        elif record.get("level") in ("ERROR", "CRITICAL"):
            errors.append(str(record.get("message")))
        else:
            lines.append(f"{record.get('level')} {record.get('message')}")
    shown = (errors or lines)[-_TAIL_LINES:]
    return "\n".join(f"  {line}" for line in shown) or "  (nothing)"


def problem(log: Path) -> str:
    """Return why a running gateway does not serve, as its log says last; "" if it says nothing."""
    why = ""
    for _, record in _tail(log):
        if record is not None and record.get("message") == "not serving":
            why = str(record.get("why", ""))
    return why


def served_fingerprint(log: Path) -> str:
    """Return the first characters of the fingerprint that an embedder says it serves; or ""."""
    found = ""
    for _, record in _tail(log):
        if record is not None and record.get("message") == "serving":
            found = str(record.get("fingerprint", ""))
    return found


def rotate(log: Path) -> None:
    """Move what is in a large log to `.log.1`, and begin the log again.

    The server continues at the new end, because it appends. A line that it writes at this
    moment can be lost.
    """
    # On a full disk nothing grows, and there is no room for a copy.
    with suppress(OSError):
        if log.stat().st_size > MAX_LOG_BYTES:
            shutil.copyfile(log, log.with_suffix(".log.1"))
            os.truncate(log, 0)


def _tail(log: Path) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """Yield the last lines of a log, each with its record if it is one in JSON."""
    with log.open("rb") as file:
        start = max(0, log.stat().st_size - _TAIL_BYTES)
        file.seek(start)
        lines = file.read().decode(errors="replace").splitlines()[1 if start else 0 :]
    for line in lines:
        if not line.strip() or _NOTE_OF_GRPC.match(line):
            continue
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        yield line, record if isinstance(record, dict) else None
