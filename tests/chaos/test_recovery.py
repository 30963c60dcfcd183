"""Who is blamed when something does not serve after a fault: Milvus itself, or Sentinel."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pymilvus.client.types import LoadState
from pymilvus.exceptions import MilvusException

from tests.chaos import cluster
from tests.chaos.rounds import Chaos


class Milvus(cluster.MilvusNode):
    """A server that serves from its `serves_from`-th start; the first is number 0."""

    def __init__(self, serves_from: int) -> None:
        super().__init__(Path())
        self.serves_from, self.starts, self.ended = serves_from, 0, False

    @property
    def alive(self) -> bool:
        return not self.ended

    async def kill(self) -> None:
        pass

    async def restart(self) -> None:
        self.starts, self._restarted, self.ended = self.starts + 1, True, False

    async def answers(self) -> bool:
        self.trouble = "" if self.starts >= self.serves_from else "it hangs"
        return not self.trouble


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_MILVUS_START_S", 0.0)


async def restarted(serves_from: int) -> Milvus:
    milvus = Milvus(serves_from)
    await milvus.kill()
    await milvus.restart()
    return milvus


async def recover(tmp_path: Path, milvus: Milvus, *failing: str) -> tuple[list[str], Chaos]:
    """Let a run wait for this Milvus and a system of which `failing` do not serve."""

    async def wait_until_serving(_: Any) -> list[str]:
        return list(failing)

    chaos = Chaos(tmp_path, 1)
    chaos._cluster = SimpleNamespace(  # type: ignore[assignment]
        milvus=milvus, nodes={}, gateways={}, wait_until_serving=wait_until_serving
    )
    return await chaos._recover(SimpleNamespace(direct={})), chaos  # type: ignore[arg-type]


async def test_a_milvus_that_does_not_serve_is_started_again_and_counted(tmp_path: Path) -> None:
    milvus = await restarted(serves_from=3)
    wrong, chaos = await recover(tmp_path, milvus)
    assert not wrong
    assert chaos.report.failed_restarts == 2
    assert "Milvus restarts that failed: 2" in str(chaos.report)


async def test_a_gateway_that_does_not_serve_is_wrong_also_after_a_failed_restart(
    tmp_path: Path,
) -> None:
    wrong, _ = await recover(tmp_path, await restarted(serves_from=2), "gateway-0")
    assert "do not serve: ['gateway-0']" in wrong[0]


async def test_a_gateway_that_does_not_serve_gets_no_new_milvus(tmp_path: Path) -> None:
    milvus = await restarted(serves_from=1)
    wrong, chaos = await recover(tmp_path, milvus, "gateway-0")
    assert "do not serve: ['gateway-0']" in wrong[0]
    assert (milvus.starts, chaos.report.failed_restarts) == (1, 0)


async def test_a_milvus_that_nobody_killed_is_not_started_again(tmp_path: Path) -> None:
    milvus = await restarted(serves_from=1)
    assert await milvus.recover()
    milvus.serves_from = 2  # it hangs, perhaps by our doing
    wrong, chaos = await recover(tmp_path, milvus)
    assert wrong == ["Milvus itself did not come back: it hangs"]
    assert (milvus.starts, chaos.report.failed_restarts) == (1, 0)


async def test_a_milvus_that_ended_itself_has_as_much_time_as_any_other(tmp_path: Path) -> None:
    milvus = Milvus(serves_from=1)
    milvus.ended = True
    wrong, chaos = await recover(tmp_path, milvus)
    assert not wrong
    assert (milvus.starts, chaos.report.failed_restarts) == (1, 0)


async def test_a_milvus_that_never_serves_ends_in_a_violation(tmp_path: Path) -> None:
    wrong, chaos = await recover(tmp_path, await restarted(serves_from=9))
    assert wrong == ["Milvus itself did not come back: it hangs"]
    assert chaos.report.failed_restarts == 3


@pytest.mark.parametrize(
    ("state", "blames_milvus"), [(LoadState.Loading, True), (LoadState.NotLoad, False)]
)
def test_a_collection_that_nobody_loaded_is_not_milvus_s_fault(
    state: LoadState, blames_milvus: bool
) -> None:
    """A gateway that does not load it again is found by the checks that follow."""

    class Client:
        def query(self, *_: Any, **__: Any) -> None:
            raise MilvusException(101, "collection not loaded")

        def get_load_state(self, *_: Any, **__: Any) -> dict[str, LoadState]:
            return {"state": state}

    with pytest.raises(MilvusException) if blames_milvus else nullcontext():
        cluster._read(Client(), "items")
