"""Log lines of a container: written together, lost never while the process is in control."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest

from sentinel_core.logging import BufferedHandler, JsonFormatter
from tests.waiting import until


class Stream(io.StringIO):
    """Counts how often it is written to."""

    writes = 0

    def write(self, text: str, /) -> int:
        self.writes += 1
        return super().write(text)


@pytest.fixture
def stream() -> Stream:
    return Stream()


@pytest.fixture
def logger(stream: io.StringIO) -> Iterator[logging.Logger]:
    handler = BufferedHandler(stream)
    handler.setFormatter(JsonFormatter())
    logger = logging.Logger("test", logging.INFO)
    logger.addHandler(handler)
    yield logger
    handler.close()


def lines(stream: io.StringIO) -> list[str]:
    return [json.loads(line)["message"] for line in stream.getvalue().splitlines()]


def test_routine_lines_wait_a_moment_and_come_in_order(
    logger: logging.Logger, stream: Stream
) -> None:
    for number in range(100):
        logger.info("line %d", number)
    until(lambda: len(lines(stream)) == 100)
    assert lines(stream) == [f"line {number}" for number in range(100)]
    assert stream.writes < 10


def test_a_warning_is_written_at_once_with_what_came_before(
    logger: logging.Logger, stream: io.StringIO
) -> None:
    logger.info("before")
    logger.warning("now")
    assert lines(stream) == ["before", "now"]


def test_closing_writes_what_waits(stream: io.StringIO) -> None:
    handler = BufferedHandler(stream)
    handler.setFormatter(JsonFormatter())
    handler.handle(logging.makeLogRecord({"msg": "last", "levelno": logging.INFO}))
    handler.close()
    assert lines(stream) == ["last"]


def test_each_line_has_its_own_time() -> None:
    formatter = JsonFormatter()
    times = []
    for created in (1_700_000_000.25, 1_700_000_000.999, 1_700_000_001.0, 1_700_000_000.0):
        record = logging.makeLogRecord({"created": created, "msecs": created % 1 * 1000})
        times.append(json.loads(formatter.format(record))["time"])
    assert times == [
        "2023-11-14T22:13:20.250+00:00",
        "2023-11-14T22:13:20.999+00:00",
        "2023-11-14T22:13:21.000+00:00",
        "2023-11-14T22:13:20.000+00:00",
    ]


def test_a_stream_that_breaks_does_not_pile_lines_up(
    logger: logging.Logger, stream: io.StringIO
) -> None:
    stream.close()
    logger.info("lost")
    [handler] = logger.handlers
    assert isinstance(handler, BufferedHandler)
    until(lambda: not handler._lines)


def test_debug_is_of_our_own_code_only() -> None:
    """Botocore would log whole requests, with the tokens in them."""
    script = """
import logging, sentinel_core.logging
sentinel_core.logging.configure("debug", "json")
for name in ("search_server.app", "sentinel.access", "botocore.auth", "asyncio"):
    print(logging.getLevelName(logging.getLogger(name).getEffectiveLevel()))
"""
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout
    assert told.split() == [b"DEBUG", b"DEBUG", b"INFO", b"INFO"]
