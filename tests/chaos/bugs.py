"""Bugs that a gateway of the chaos suite can have, to prove that the suite finds them.

The product has no switch for them: `tests.chaos.gateway_process` plants one before it runs the
gateway.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import Any

VARIABLE = "CHAOS_BUG"


def plant(name: str) -> None:
    """Give this process a bug."""
    BUGS[name]()


def _acknowledge_early() -> None:
    """Acknowledge a write before Milvus has answered."""
    from sentinel_store.milvus.store import MilvusStore

    upsert = MilvusStore.upsert
    running: set[asyncio.Task[None]] = set()

    async def early(*arguments: Any, **named: Any) -> None:
        task = asyncio.create_task(upsert(*arguments, **named))
        running.add(task)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        task.add_done_callback(running.discard)

    MilvusStore.upsert = early  # type: ignore[method-assign]


def _write_what_is_there() -> None:
    """Do not look whether an item is stored already: a repeated write is a new one."""
    from search_server.items import writer

    async def nothing_before(*_: Any) -> Any:
        return writer._StoredBefore()

    writer.ItemWriter._stored_before = nothing_before  # type: ignore[assignment, method-assign]


def _wait_for_milvus() -> None:
    """Give calls of Milvus no deadline."""
    from sentinel_core.calls import Deadline
    from sentinel_store.milvus.connection import MilvusConnection

    for name in ("run", "search", "query", "write"):
        setattr(MilvusConnection, name, _patient(getattr(MilvusConnection, name), Deadline))


def _patient(call: Callable[..., Any], deadline_type: Any) -> Callable[..., Any]:
    @functools.wraps(call)
    async def patient(*arguments: Any, **named: Any) -> Any:
        endless = [
            deadline_type.within(3600.0) if isinstance(one, deadline_type) else one
            for one in arguments
        ]
        return await call(*endless, **named)

    return patient


def _keep_dead_workers() -> None:
    """Keep a worker in the pool, whatever its health checks say."""
    from search_server.embedders.worker import Worker, WorkerState

    set_state = Worker._set_state

    def only_up(worker: Worker, state: WorkerState) -> None:
        if not worker.healthy:
            set_state(worker, state)

    Worker._set_state = only_up  # type: ignore[assignment, method-assign]


def _swap_answers() -> None:
    """Give two contents of a batch each other's embedding."""
    from search_server.embedders.worker import Worker

    embed = Worker.embed

    async def swapped(*arguments: Any, **named: Any) -> Any:
        answer = await embed(*arguments, **named)
        if len(answer.items) > 1:
            answer.items[0], answer.items[1] = answer.items[1], answer.items[0]
        return answer

    Worker.embed = swapped  # type: ignore[method-assign]


def _never_reconnect() -> None:
    """Once Milvus was away, never ask it again."""
    from sentinel_core.errors import Unavailable
    from sentinel_store.milvus.connection import MilvusConnection

    run = MilvusConnection.run
    lost: list[Unavailable] = []

    async def once(*arguments: Any, **named: Any) -> Any:
        if lost:
            raise lost[0].at(None)
        try:
            return await run(*arguments, **named)
        except Unavailable as error:
            lost.append(error)
            raise

    MilvusConnection.run = once  # type: ignore[method-assign]


BUGS: dict[str, Callable[[], None]] = {
    "acknowledge-early": _acknowledge_early,
    "skip-idempotency-check": _write_what_is_there,
    "no-milvus-deadline": _wait_for_milvus,
    "keep-dead-worker": _keep_dead_workers,
    "swap-answers": _swap_answers,
    "never-reconnect": _never_reconnect,
}
