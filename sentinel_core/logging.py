"""Log records as JSON lines in containers and as plain text on a terminal."""

from __future__ import annotations

import datetime
import json
import logging
import sys
from typing import Any

# What every LogRecord has; anything else came in through `extra` and is a field.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


class JsonFormatter(logging.Formatter):
    """One JSON object per record: time (RFC 3339, UTC), level, logger, message, fields."""

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        entry = {
            "time": when.isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """The record as a line for people, its fields behind it as key=value."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        fields = " ".join(f"{key}={value}" for key, value in _fields(record).items())
        head, *rest = super().format(record).split("\n", 1)
        return "\n".join([f"{head} {fields}".rstrip(), *rest])


def configure(level: str, style: str) -> None:
    """Send the root logger to standard error.

    Args:
        level: `debug`, `info`, `warning` or `error`.
        style: `json`, `text`, or `auto`: text on a terminal, JSON elsewhere.
    """
    as_text = style == "text" or (style == "auto" and sys.stderr.isatty())
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(TextFormatter() if as_text else JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # Milvus Lite, a gRPC server in our process, lacks a method that pymilvus asks for at start.
    logging.getLogger("grpc._server").setLevel(logging.CRITICAL)
    logging.captureWarnings(True)
    # pymilvus logs every failed attempt as an error; our interceptor reports the outcome once.
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
    logging.getLogger("faiss").setLevel(logging.WARNING)  # tells which instruction sets it tried
