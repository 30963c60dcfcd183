"""The event loop that a server runs on: uvloop where there is one, else Python's own.

grpc.aio wakes its loop through a socket for every event of a call, which uvloop handles at about
half of the cost; gRPC's authors measure themselves with it (grpc/grpc#22258).
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

_Result = TypeVar("_Result")


def run(main: Coroutine[Any, Any, _Result]) -> _Result:
    """Run `main` to its end, as `asyncio.run` does."""
    try:
        from uvloop import new_event_loop  # noqa: PLC0415 - there is none for Windows
    except ModuleNotFoundError:
        return asyncio.run(main)
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(main)
