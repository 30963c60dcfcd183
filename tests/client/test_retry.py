from __future__ import annotations

import math
import random

import pytest

from sentinel_client import (
    ConnectionFailed,
    DeadlineExceeded,
    NotFound,
    ResourceExhausted,
    RetryPolicy,
    SentinelError,
    Unavailable,
)
from sentinel_client._connection import Attempts
from sentinel_client._retry_budget import RetryBudget

UNAVAILABLE = ConnectionFailed("UNREACHABLE", "nobody")


class Time:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 100.0
        self.pauses: list[float] = []

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds

    def attempts(self, *, timeout: float = 60.0, retry: bool = True, **policy: float) -> Attempts:
        return Attempts(
            RetryPolicy(**policy),  # type: ignore[arg-type]
            timeout=timeout,
            retry=retry,
            clock=self.clock,
            sleep=self.sleep,
            chance=lambda: 1.0,
        )


async def exhaust(attempts: Attempts, error: SentinelError) -> SentinelError:
    while True:
        try:
            await attempts.pause_or_raise(error)
        except SentinelError as last:
            return last


async def test_unavailable_is_repeated_with_growing_pauses_up_to_a_bound() -> None:
    time = Time()
    attempts = time.attempts(max_attempts=6, initial_backoff=1, multiplier=3, max_backoff=10)
    assert await exhaust(attempts, UNAVAILABLE) is UNAVAILABLE
    assert time.pauses == [1, 3, 9, 10, 10]


async def test_pauses_are_jittered_between_half_and_whole() -> None:
    time = Time()
    attempts = Attempts(
        RetryPolicy(initial_backoff=1),
        timeout=60,
        retry=True,
        clock=time.clock,
        sleep=time.sleep,
        chance=lambda: 0.0,
    )
    await attempts.pause_or_raise(UNAVAILABLE)
    assert time.pauses == [0.5]


async def test_a_full_queue_is_tried_again_no_earlier_than_it_asks() -> None:
    time = Time()
    full = ResourceExhausted("QUEUE_FULL", "full", retry_after=2.0)
    await time.attempts().pause_or_raise(full)
    assert 2.0 <= time.pauses[0] <= 4.0


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(NotFound("ITEM_NOT_FOUND", "no"), id="NOT_FOUND"),
        pytest.param(ResourceExhausted("UNKNOWN", "message too large"), id="no RetryInfo"),
    ],
)
async def test_what_stays_wrong_is_not_repeated(error: SentinelError) -> None:
    time = Time()
    assert await exhaust(time.attempts(), error) is error
    assert not time.pauses


async def test_a_call_that_is_unsafe_to_repeat_is_not_repeated() -> None:
    time = Time()
    assert await exhaust(time.attempts(retry=False), UNAVAILABLE) is UNAVAILABLE
    assert not time.pauses


async def test_no_pause_reaches_beyond_the_deadline() -> None:
    time = Time()
    attempts = time.attempts(timeout=5.0, initial_backoff=2, multiplier=2)
    assert await exhaust(attempts, UNAVAILABLE) is UNAVAILABLE
    assert time.pauses == [2]
    assert attempts.remaining() == 3.0


async def test_running_out_of_time_names_the_failure_before() -> None:
    attempts = Time().attempts()
    await attempts.pause_or_raise(UNAVAILABLE)
    with pytest.raises(DeadlineExceeded) as caught:
        await attempts.pause_or_raise(DeadlineExceeded("OUT_OF_TIME", "late"))
    assert caught.value.__cause__ is UNAVAILABLE


async def test_an_infinite_timeout_is_no_deadline() -> None:
    assert Time().attempts(timeout=math.inf).remaining() is None


class Overloaded:
    """Servers that refuse a share of what they get; `got` counts all attempts."""

    def __init__(self, error: SentinelError, *, refused: float = 1.0) -> None:
        self._error, self._refused = error, refused
        self._random = random.Random(1)
        self.got = 0

    async def call(self, budget: RetryBudget) -> bool:
        budget.note_call()
        attempts = Attempts(
            RetryPolicy(), timeout=60, retry=True, budget=budget, sleep=no_sleep, chance=lambda: 0.5
        )
        while True:
            self.got += 1
            if self._random.random() >= self._refused:
                return True
            try:
                await attempts.pause_or_raise(self._error)
            except SentinelError:
                return False


async def no_sleep(_: float) -> None:
    pass


FULL = ResourceExhausted("QUEUE_FULL", "full", retry_after=0.1)


@pytest.mark.parametrize("refused", [1.0, 0.7, 0.3])
async def test_retries_add_at_most_a_fifth_in_any_ten_seconds(refused: float) -> None:
    time = Time()
    budget, servers = RetryBudget(time.clock), Overloaded(FULL, refused=refused)
    got: list[int] = []  # by second
    for _ in range(30):
        before = servers.got
        for _ in range(300):
            await servers.call(budget)
        got.append(servers.got - before)
        time.now += 1
    assert all(sum(got[at : at + 10]) <= 1.2 * 3_000 for at in range(21))
    assert sum(got) > 1.15 * 9_000  # and it is used


async def test_a_client_of_few_calls_repeats_them() -> None:
    time = Time()
    budget, servers = RetryBudget(time.clock), Overloaded(FULL)
    for _ in range(3):
        await servers.call(budget)
    assert servers.got == 3 + 10  # of 12 retries
    time.now += 10
    await servers.call(budget)
    assert servers.got == 13 + 5


async def test_a_call_that_is_not_repeated_says_why() -> None:
    time = Time()
    budget = RetryBudget(time.clock)
    while budget.take():
        pass
    attempts = Attempts(RetryPolicy(), timeout=60, retry=True, budget=budget)
    with pytest.raises(ResourceExhausted) as caught:
        await attempts.pause_or_raise(FULL)
    assert "servers have refused many calls" in caught.value.__notes__[0]


@pytest.mark.parametrize("error", [UNAVAILABLE, Unavailable("DRAINING", "it leaves")])
async def test_a_server_that_is_not_there_costs_no_budget(error: SentinelError) -> None:
    """Another one gets the call for the first time: a rolling restart fails none."""
    budget, servers = RetryBudget(Time().clock), Overloaded(error)
    for _ in range(100):
        await servers.call(budget)
    assert servers.got == 500
    assert budget.take()


def test_a_policy_has_at_least_one_attempt() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        RetryPolicy(max_attempts=0)
