"""The file of keys: changed hashes, revocation during a check, guesses, broken entries."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sentinel_core.access import keys as module
from sentinel_core.access.keys import KeyFile
from sentinel_core.errors import ResourceExhausted, SentinelError, Unauthenticated
from tests.search_server.access.secured import sentinel

HERE, THERE = "ipv4:10.0.0.1", "ipv4:10.0.0.2"


class Keys:
    """A file, and what reads it; `reload` does not wait for the next look."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.first = self.create()
        self.file = KeyFile(path)

    def create(self, *words: str) -> str:
        return sentinel("keys", "create", "--file", str(self.path), "--grant", "read", *words)

    def entries(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.path.read_text())["keys"]
        return found

    def write(self, entries: list[dict[str, Any]]) -> None:
        self.path.write_text(json.dumps({"keys": entries}))

    async def reason(self, key: str, host: str = HERE, *, reload: bool = True) -> str:
        if reload:
            self.file._file._looked_at = 0.0
        try:
            await self.file.caller_of(key, host)
        except SentinelError as error:
            return error.reason
        return "OK"


@pytest.fixture
async def keys(tmp_path: Path) -> AsyncIterator[Keys]:
    keys = Keys(tmp_path / "keys.json")
    yield keys
    keys.file.close()


async def test_a_secret_that_was_replaced_under_its_id_is_refused(keys: Keys) -> None:
    assert await keys.reason(keys.first) == "OK"
    other = keys.create()
    [first, second] = keys.entries()
    first["hash"] = second["hash"]
    keys.write([first])
    assert await keys.reason(keys.first) == "CREDENTIALS_INVALID"
    assert await keys.reason(other) == "CREDENTIALS_INVALID"  # its id is gone


@pytest.mark.parametrize("change", ["revoked", "replaced", "other grants"])
async def test_the_file_may_change_while_a_key_is_checked(
    keys: Keys, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    go_on, began = threading.Event(), threading.Event()
    really = module.matches

    def slowly(key: str, expected: str) -> bool:
        began.set()
        assert go_on.wait(20)
        return really(key, expected)

    monkeypatch.setattr(module, "matches", slowly)
    running = asyncio.create_task(keys.file.caller_of(keys.first, HERE))
    await asyncio.to_thread(began.wait, 20)
    [entry] = keys.entries()
    if change == "replaced":
        keys.create()
        entry["hash"] = keys.entries()[1]["hash"]
    entry["grants"] = ["write"]
    keys.write([] if change == "revoked" else [entry])
    keys.file._file._looked_at = 0.0
    keys.file._follow_file()
    go_on.set()
    if change == "other grants":
        assert [str(grant.scope) for grant in (await running).grants] == ["write"]
        return
    with pytest.raises(Unauthenticated):
        await running


async def test_who_guesses_does_not_keep_the_owner_waiting(
    keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_AFTER_WRONG_S", 60.0)
    wrong = keys.first[:-1] + ("A" if keys.first[-1] != "A" else "B")
    assert await keys.reason(wrong, THERE) == "CREDENTIALS_INVALID"
    assert await keys.reason(wrong, THERE) == "CREDENTIALS_THROTTLED"
    assert await keys.reason(keys.first, HERE) == "OK"
    assert await keys.reason(keys.first, THERE) == "OK"  # proven by now


async def test_a_caller_who_leaves_does_not_spoil_it_for_the_next(keys: Keys) -> None:
    leaving = asyncio.create_task(keys.file.caller_of(keys.first, HERE))
    await asyncio.sleep(0)
    leaving.cancel()
    assert await keys.reason(keys.first) == "OK"


async def test_checks_do_not_pile_up(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    more = [keys.create() for _ in range(40)]
    keys.file._file._looked_at = 0.0
    keys.file._follow_file()
    go_on = threading.Event()
    monkeypatch.setattr(module, "matches", lambda *_: go_on.wait(20))
    running = [asyncio.create_task(keys.file.caller_of(key, HERE)) for key in more]
    await asyncio.sleep(0.05)
    refused = [one for one in running if one.done()]
    assert len(refused) == 8
    assert all(isinstance(one.exception(), ResourceExhausted) for one in refused)
    go_on.set()
    await asyncio.gather(*running, return_exceptions=True)


@pytest.mark.parametrize(
    "change",
    [
        {"hash": "scrypt$1000$8$1$00$00"},
        {"hash": "scrypt$4096$8$1$$00"},
        {"hash": "scrypt$4096$8$1$00$"},
        {"hash": "scrypt$1048576$8$1$00$00"},
        {"hash": "scrypt$4096$8"},
        {"hash": "md5$00"},
        {"hash": None},
        {"grants": ["nothing"]},
        {"tenant": "Not One"},
        {"expires": "soon"},
    ],
)
async def test_a_broken_entry_is_told_when_the_file_is_read(
    keys: Keys, change: dict[str, Any]
) -> None:
    [entry] = keys.entries()
    keys.write([{**entry, **change}])
    with pytest.raises(ValueError, match=r"keys\.json"):
        KeyFile(keys.path)
    assert await keys.reason(keys.first) == "OK"  # the keys it has stay valid


async def test_no_tenant_may_be_written_as_nothing(keys: Keys) -> None:
    [entry] = keys.entries()
    keys.write([{**entry, "tenant": None}])
    keys.file._file._looked_at = 0.0
    assert (await keys.file.caller_of(keys.first, HERE)).tenant == ""


async def test_an_expired_key_is_expired_without_a_new_look(tmp_path: Path) -> None:
    now = time.time()
    path = tmp_path / "keys.json"
    key = sentinel("keys", "create", "--file", str(path), "--grant", "read", "--expires", "1h")
    file = KeyFile(path, lambda: now)
    await file.caller_of(key, HERE)
    now += 3601
    with pytest.raises(Unauthenticated) as caught:
        await file.caller_of(key, HERE)
    assert caught.value.reason == "CREDENTIALS_EXPIRED"
    file.close()


def test_roles_of_the_file_itself(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"roles": {"auditor": ["read"]}, "keys": []}))
    sentinel("keys", "create", "--file", str(path), "--grant", "auditor:log*")
    KeyFile(path).close()
