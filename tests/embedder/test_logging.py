"""Log lines of a container: written together, lost never while the process is in control."""

from __future__ import annotations

import io
import json
import logging
import time
from collections.abc import Iterator

import pytest

from sentinel_core.logging import BufferedHandler, JsonFormatter


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


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
    logger: logging.Logger, stream: io.StringIO
) -> None:
    for number in range(100):
        logger.info("line %d", number)
    assert lines(stream) == []
    time.sleep(0.5)
    assert lines(stream) == [f"line {number}" for number in range(100)]


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


def test_a_stream_that_breaks_does_not_pile_lines_up(
    logger: logging.Logger, stream: io.StringIO
) -> None:
    stream.close()
    logger.info("lost")
    time.sleep(0.3)
    [handler] = logger.handlers
    assert isinstance(handler, BufferedHandler)
    assert handler._lines == []
