"""What a client needs from its process: a gRPC that still works, and threads that hold nothing up.

gRPC does not survive a fork while one of its channels is open: calls of the child hang or end the
process. A child of such a fork gets an error at once. A fork without open channels does no harm.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar
from weakref import WeakSet

T = TypeVar("T")

_open: WeakSet[Any] = WeakSet()
_forked = False


def opened(user: object) -> None:
    """Note that `user` uses gRPC in this process until `closed`, or until nobody refers to it."""
    _open.add(user)


def closed(user: object) -> None:
    """Note that `user` does not use gRPC any more."""
    _open.discard(user)


def forked_while_open() -> bool:
    """Return whether this process is the child of a fork that gRPC does not survive."""
    return _forked


def check_fork() -> None:
    """Raise RuntimeError if this process is the child of a fork that gRPC does not survive."""
    if _forked:
        raise RuntimeError(
            "this process was forked while a Sentinel client was open, and gRPC does not survive "
            "that: start processes with spawn or forkserver, for example "
            'multiprocessing.get_context("spawn"), or close all clients before the fork'
        )


def refuse_pickle(client: object) -> TypeError:
    """Return the error of a client that is pickled or copied."""
    name = type(client).__name__
    return TypeError(f"a {name} cannot be copied or sent to another process: create one there")


async def in_thread(function: Callable[[], T]) -> T:
    """Return `function()`, run in a thread of its own that may block for any time.

    The threads of `asyncio.to_thread` are few, and the end of the loop and of the process waits for
    them. Nothing waits for this one: if the caller is cancelled, its result is dropped.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(set_outcome: Callable[[Any], None], outcome: object) -> None:
        if not future.done():
            set_outcome(outcome)

    def work() -> None:
        try:
            outcome: Any = function()
            set_outcome: Callable[[Any], None] = future.set_result
        except BaseException as error:
            set_outcome, outcome = future.set_exception, error
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(settle, set_outcome, outcome)

    threading.Thread(target=work, name="sentinel-read", daemon=True).start()
    return await future


def _note_fork() -> None:
    global _forked  # noqa: PLW0603 - a fact about this process
    _forked = _forked or bool(_open)


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_note_fork)
