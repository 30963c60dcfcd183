"""Whom the quarantine suspects, for how long, and when it rejects."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client import CollectorRegistry

from search_server.embedders import quarantine as module
from search_server.embedders.quarantine import Quarantine
from sentinel_core.calls import Deadline
from sentinel_core.errors import DeadlineExceeded, InvalidArgument
from sentinel_core.metrics import ServerMetrics
from sentinel_store.items import Content, Crop, Kind
from tests.search_server.embedders.test_load import Clock

KEY, OTHER = b"key", b"other"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def quarantine(clock: Clock) -> Quarantine:
    return Quarantine(ServerMetrics("gateway", CollectorRegistry()), clock)


def test_a_suspect_is_remembered_for_ten_minutes(quarantine: Quarantine, clock: Clock) -> None:
    quarantine.suspect([KEY])
    assert quarantine.holds_any
    assert quarantine.is_suspect(KEY)
    assert not quarantine.is_suspect(OTHER)
    clock.now += 601
    assert not quarantine.is_suspect(KEY)
    assert not quarantine.holds_any


def test_one_that_was_embedded_alone_is_innocent(quarantine: Quarantine) -> None:
    quarantine.suspect([KEY, OTHER])
    quarantine.clear(KEY)
    assert not quarantine.is_suspect(KEY)
    assert quarantine.is_suspect(OTHER)


def test_the_end_of_a_process_is_proof(quarantine: Quarantine, clock: Clock) -> None:
    quarantine.suspect([KEY])
    error = quarantine.lose(KEY, ended=True)
    assert isinstance(error, InvalidArgument)
    assert error.reason == "CONTENT_POISONOUS"
    assert "next 10 min" in error.message
    clock.now += 240
    again = quarantine.rejection(KEY)
    assert again is not None
    assert "next 6 min" in again.message
    clock.now += 361
    assert not quarantine.is_suspect(KEY)


def test_a_hang_is_no_proof_before_the_third_time(quarantine: Quarantine) -> None:
    quarantine.suspect([KEY])
    assert quarantine.lose(KEY, ended=False) is None
    quarantine.clear(KEY)  # it went well in between
    assert quarantine.lose(KEY, ended=False) is None
    assert quarantine.lose(KEY, ended=False) is None
    assert quarantine.rejection(KEY) is None
    assert quarantine.lose(KEY, ended=False) is not None


def test_memory_is_bounded(quarantine: Quarantine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_REMEMBERED", 10)
    quarantine.suspect(str(number).encode() for number in range(25))
    known = [number for number in range(25) if quarantine.is_suspect(str(number).encode())]
    assert known == list(range(15, 25))


def test_what_was_forgotten_can_be_suspected_anew(quarantine: Quarantine, clock: Clock) -> None:
    quarantine.suspect([KEY])
    clock.now += 601
    quarantine.suspect([OTHER])
    quarantine.clear(OTHER)  # forgets the old ones, too
    assert not quarantine.holds_any


async def test_a_key_is_of_bytes_and_model(quarantine: Quarantine) -> None:
    image = Content(Kind.IMAGE, b"x" * 300_000)
    cropped = Content(Kind.IMAGE, image.data, Crop(0, 0, 0.5, 0.5))
    text = Content(Kind.TEXT, image.data)
    keys = await quarantine.keys([image, cropped, text], "model")
    assert keys[0] == keys[1] != keys[2]
    assert await quarantine.keys([image], "another") != keys[:1]


async def test_suspects_take_turns_by_kind_within_their_deadlines(quarantine: Quarantine) -> None:
    async with quarantine.turn(Kind.IMAGE, Deadline.within(10)):
        async with quarantine.turn(Kind.TEXT, Deadline.within(10)):
            pass
        with pytest.raises(DeadlineExceeded):
            async with quarantine.turn(Kind.IMAGE, Deadline.within(0.1)):
                pass
        waiting = asyncio.create_task(_take_turn(quarantine))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        waiting.cancel()
    await asyncio.wait_for(_take_turn(quarantine), 10)


async def _take_turn(quarantine: Quarantine) -> None:
    async with quarantine.turn(Kind.IMAGE, Deadline.within(10)):
        pass
