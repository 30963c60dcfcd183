"""Write log records as JSON lines in containers and as plain text on a terminal."""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import sys
import threading
from typing import Any, TextIO

# How long a line may wait in memory; WARNING and above are written at once.
_FLUSH_PERIOD_S = 0.2

# Libraries log no more than INFO: at DEBUG, botocore logs whole requests, session tokens included.
_OURS = (
    *("sentinel", "sentinel_core", "sentinel_store"),
    *("search_server", "embedder_server", "bulk_indexer"),
)

# Attributes of every LogRecord; all others came through `extra` and are our fields.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


# Made once: `json.dumps` with options makes a new encoder for every line.
_encode = json.JSONEncoder(default=str, ensure_ascii=False).encode


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


class JsonFormatter(logging.Formatter):
    """One JSON object per record: time (RFC 3339, UTC), level, logger, message, fields."""

    def __init__(self) -> None:
        super().__init__()
        # Of the last line. One thread at a time comes here: a handler has a lock.
        self._second, self._shown_second = -1, ""

    def _time_of(self, record: logging.LogRecord) -> str:
        second = int(record.created)
        if second != self._second:
            self._second = second
            when = datetime.datetime.fromtimestamp(second, datetime.UTC)
            self._shown_second = when.strftime("%Y-%m-%dT%H:%M:%S")
        return f"{self._shown_second}.{int(record.msecs):03d}+00:00"

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": self._time_of(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return _encode(entry)


class TextFormatter(logging.Formatter):
    """The record as a line for people, followed by its fields as key=value."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        fields = " ".join(f"{key}={value}" for key, value in _fields(record).items())
        head, *rest = super().format(record).split("\n", 1)
        return "\n".join([f"{head} {fields}".rstrip(), *rest])


class BufferedHandler(logging.Handler):
    """Writes lines in groups, a few times a second, as web servers write their access logs.

    At a thousand calls a second, one write per line costs more than the formatting. A WARNING or
    worse is written at once, with all lines before it. A normal exit writes everything; a killed
    process loses at most the last 0.2 s of routine lines.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._lines: list[str] = []
        self._waiting = threading.Event()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._flush_forever, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._lines.append(self.format(record))
            if record.levelno >= logging.WARNING:
                self.flush()
            elif not self._waiting.is_set():
                self._waiting.set()
        except Exception:
            self.handleError(record)

    def flush(self) -> None:
        """Write the waiting lines."""
        self.acquire()  # as `handle` does around `emit`
        try:
            if self._lines:
                self._stream.write("\n".join(self._lines) + "\n")
                self._stream.flush()
        finally:
            self._lines.clear()  # also when nobody reads the stream: memory must not grow
            self.release()

    def close(self) -> None:
        """Write the waiting lines and end the thread."""
        self.flush()
        self._ending.set()
        self._waiting.set()
        # `logging.shutdown` holds our lock here, which the thread may be waiting for.
        self._thread.join(_FLUSH_PERIOD_S)
        super().close()

    def _flush_forever(self) -> None:
        while True:
            self._waiting.wait()
            if self._ending.wait(_FLUSH_PERIOD_S):
                return
            self._waiting.clear()
            with contextlib.suppress(OSError, ValueError):  # standard error is closed
                self.flush()


def configure(level: str, style: str) -> None:
    """Send the root logger to standard error.

    Args:
        level: `debug`, `info`, `warning` or `error`; of libraries, `info` or above.
        style: `json`, `text`, or `auto`: text on a terminal, JSON elsewhere.
    """
    as_text = style == "text" or (style == "auto" and sys.stderr.isatty())
    handler: logging.Handler = (
        logging.StreamHandler(sys.stderr) if as_text else BufferedHandler(sys.stderr)
    )
    handler.setFormatter(TextFormatter() if as_text else JsonFormatter())
    least: int = logging.getLevelName(level.upper())
    logging.basicConfig(level=max(least, logging.INFO), handlers=[handler], force=True)
    for name in _OURS:
        logging.getLogger(name).setLevel(least)
    logging.captureWarnings(True)
    # pymilvus logs every failed attempt as an error; our interceptor reports the outcome once.
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
    logging.getLogger("milvus_lite.adapter").setLevel(logging.CRITICAL)  # likewise
    logging.getLogger("faiss").setLevel(logging.WARNING)  # logs the instruction sets it tried
