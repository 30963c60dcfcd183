"""Scripts of test_client_processes.py: uses of a client around forks, threads, loops and the exit.

Run as `python -m tests.client.process_cases CASE ADDRESS`, because each needs a process of its own.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from multiprocessing import get_context

from sentinel_client import (
    AsyncSentinelClient,
    ClientConfig,
    Item,
    RetryPolicy,
    SentinelClient,
    SentinelError,
    _sync,
)

ADDRESS = sys.argv[2] if len(sys.argv) > 2 else ""


def tell(call: Callable[[], object]) -> None:
    """Print what a call returns or raises."""
    try:
        outcome = str(call())
    except (RuntimeError, TypeError, SentinelError) as error:
        outcome = f"{type(error).__name__}: {error}"
    sys.stdout.write(f"{outcome}\n")  # at once, unlike print, since threads call this
    sys.stdout.flush()


def in_fork(call: Callable[[], object], leave: Callable[[int], object] = sys.exit) -> None:
    """Run a call in a forked child, and end the child as a program ends."""
    process = os.fork()
    if not process:
        tell(call)
        leave(0)
    print("child ended with", os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)


def new_client() -> bool:
    with SentinelClient(ADDRESS) as client:
        return client.health().serving


async def health(client: AsyncSentinelClient) -> bool:
    return (await client.health()).serving


async def new_async_client() -> bool:
    async with AsyncSentinelClient(ADDRESS) as client:
        return all([await health(client) for _ in range(20)])


def fork_before_the_first_call() -> None:
    client, other = SentinelClient(ADDRESS), AsyncSentinelClient(ADDRESS)
    in_fork(lambda: client.health().serving)
    in_fork(lambda: asyncio.run(health(other)))
    tell(lambda: client.health().serving)


def fork_after_all_are_closed() -> None:
    new_client()
    in_fork(new_client)
    tell(new_client)


def fork_while_one_is_open() -> None:
    client = SentinelClient(ADDRESS)
    client.health()
    stream = client.stream_search("x", collection="c")
    next(stream)
    in_fork(lambda: client.health().serving)
    in_fork(lambda: next(stream))
    in_fork(client.close)
    in_fork(new_client)
    in_fork(lambda: asyncio.run(new_async_client()))
    tell(lambda: client.health().serving)


def fork_in_a_loop() -> None:
    async def parent() -> None:
        async with AsyncSentinelClient(ADDRESS) as client:
            await health(client)
            # As multiprocessing ends its children: the loop is the parent's.
            in_fork(new_client, os._exit)
            print(await health(client))

    asyncio.run(parent())


def spawn() -> None:
    with SentinelClient(ADDRESS) as client, get_context("spawn").Pool(1) as pool:
        client.health()
        print(pool.apply(_spawned, (ADDRESS,)))
        tell(lambda: pool.apply(print, (client,)))


def _spawned(address: str) -> bool:
    with SentinelClient(address) as client:
        return client.health().serving


def loops_in_threads() -> None:
    threads = [
        threading.Thread(target=lambda: tell(lambda: asyncio.run(new_async_client())))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    tell(new_client)
    for thread in threads:
        thread.join()


def one_client_in_two_loops() -> None:
    client = AsyncSentinelClient(ADDRESS)

    async def parent() -> None:
        print(await health(client))
        await asyncio.to_thread(tell, lambda: asyncio.run(health(client)))
        await asyncio.to_thread(tell, lambda: asyncio.run(client.close()))
        print(await health(client))

    asyncio.run(parent())
    tell(lambda: asyncio.run(health(client)))
    tell(lambda: asyncio.run(client.close()))


def a_call_in_a_callback() -> None:
    with SentinelClient(ADDRESS) as client:

        async def items() -> AsyncIterator[Item]:
            client.health()
            yield Item(text="x")

        tell(lambda: list(client.ingest(items(), collection="c")))
        tell(lambda: client.health().serving)


def a_source_that_exits() -> None:
    with SentinelClient(ADDRESS) as client:

        def items() -> Iterator[Item]:
            yield Item(text="x")
            sys.exit("stop")

        try:
            list(client.ingest(items(), collection="c"))
        except SystemExit as error:
            print("SystemExit:", error)
        tell(lambda: client.health().serving)


def close_in_the_middle() -> None:
    client, stalled = SentinelClient(ADDRESS), threading.Event()

    def items() -> Iterator[Item]:
        stalled.set()
        threading.Event().wait()
        yield Item(text="x")

    call = threading.Thread(
        target=lambda: tell(lambda: list(client.ingest(items(), collection="c")))
    )
    call.start()
    stalled.wait()
    client.close()
    client.close()
    call.join()
    tell(client.health)


def close_before_a_retry() -> None:
    async def parent() -> None:
        config = ClientConfig(retry=RetryPolicy(initial_backoff=0.5))
        client = AsyncSentinelClient("127.0.0.1:1", config=config)
        call = asyncio.create_task(client.search_page("x", collection="c"))
        await asyncio.sleep(0.2)
        await client.close()
        await asyncio.wait({call})
        tell(call.result)

    asyncio.run(parent())


def exit_while_a_source_blocks_the_loop() -> None:
    client, blocked = SentinelClient(ADDRESS), threading.Event()

    async def items() -> AsyncIterator[Item]:
        blocked.set()
        threading.Event().wait()
        yield Item(text="x")

    call = partial(list, client.ingest(items(), collection="c"))
    threading.Thread(target=call, daemon=True).start()
    blocked.wait()
    print("left")


def exit_without_closing() -> None:
    global left  # noqa: PLW0603 - it ends with the interpreter
    client = SentinelClient(ADDRESS)
    left = client.stream_search("x", collection="c")
    print(next(left).rank)


def close_after_the_exit() -> None:
    client = SentinelClient(ADDRESS)
    tell(lambda: client.health().serving)
    # As for a function that was registered with `atexit` before the client was imported.
    _sync._loop_thread.stop_at_exit()
    tell(client.close)
    tell(client.health)


def collected_in_the_loop_thread() -> None:
    client = SentinelClient(ADDRESS)
    client.health()
    stream = client.stream_search("x", collection="c")
    next(stream)
    cycle: list[object] = [stream]
    cycle.append(cycle)
    del stream, cycle

    async def items() -> AsyncIterator[Item]:
        gc.collect()
        yield Item(text="x")

    gc.disable()
    print(len(list(client.ingest(items(), collection="c"))))
    tell(lambda: client.health().serving)


def a_stalled_source_and_exit() -> None:
    async def parent() -> None:
        async with AsyncSentinelClient(ADDRESS) as client:

            def items() -> Iterator[Item]:
                yield Item(text="x")
                threading.Event().wait()

            acks = client.ingest(items(), collection="c")
            reading = asyncio.ensure_future(anext(acks))
            await asyncio.wait({reading}, timeout=1)
            reading.cancel()
            print("left")

    asyncio.run(parent())


left: Iterator[object]

if __name__ == "__main__":
    globals()[sys.argv[1]]()
