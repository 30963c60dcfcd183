"""Load reports: their averages, their form on the wire, and what a balancer makes of them."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from sentinel.search.v1 import item_service_pb2
from sentinel_core.admission import Admission
from sentinel_core.errors import ResourceExhausted, Unavailable
from sentinel_core.load_report import LoadReport
from tests.sentinel_core.raw_http2 import RawConnection, binary_trailer
from tests.sentinel_core.serving import GET, UPSERT, Items, serving

KEY = "endpoint-load-metrics-bin"
WEIGHTED = {
    "loadBalancingConfig": [
        {"weighted_round_robin": {"blackoutPeriod": "0.1s", "weightUpdatePeriod": "0.1s"}}
    ]
}


def _orca() -> Any:
    """The fields of xds.data.orca.v3.OrcaLoadReport that are no maps."""
    file = descriptor_pb2.FileDescriptorProto(
        name="orca_of_the_tests.proto", package="orca_of_the_tests", syntax="proto3"
    )
    message = file.message_type.add(name="OrcaLoadReport")
    for name, number in {
        "cpu_utilization": 1,
        "mem_utilization": 2,
        "rps_fractional": 6,
        "eps": 7,
        "application_utilization": 9,
    }.items():
        message.field.add(name=name, number=number, type=1, label=1)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(
        pool.FindMessageTypeByName("orca_of_the_tests.OrcaLoadReport")
    )


Report = _orca()


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def admission(clock: Clock | None = None, most: int = 100) -> Admission:
    options = {"clock": clock} if clock else {}
    return Admission({"things": most}, lambda s: ResourceExhausted("OVERLOADED", "full"), **options)


def decoded(report: LoadReport) -> Any:
    return Report.FromString(report.report())


def test_the_decoder_of_these_tests_reads_the_example_of_the_specification() -> None:
    example = "CZqZmZmZmbk/MQAAAAAAAABAQg4KA2ZvbxGamZmZmZm5P0IOCgNiYXIRmpmZmZmZyT8="
    report = Report.FromString(base64.b64decode(example))
    assert (report.cpu_utilization, report.rps_fractional) == (0.1, 2.0)


def test_it_averages_what_was_done_and_how_full_the_fullest_was() -> None:
    clock = Clock()
    report, busy, idle = LoadReport(clock), admission(clock), admission(clock)
    report.watch([busy, idle])
    assert decoded(report) == Report(rps_fractional=0, eps=0, application_utilization=0)
    for _ in range(200):  # in 10 s, half of the time 40 of 100 are in work
        with busy.admit({"things": 40}, "me"):
            clock.now += 0.025
        clock.now += 0.025
        for code in ("OK", "OK", "NOT_FOUND", "UNAVAILABLE", "RESOURCE_EXHAUSTED", "CANCELLED"):
            report.note(code)
        found = decoded(report)
    assert found.rps_fractional == pytest.approx(60, rel=0.01)
    assert found.eps == pytest.approx(40, rel=0.01)
    assert found.application_utilization == pytest.approx(0.2, rel=0.05)
    clock.now += 60
    found = decoded(report)
    assert found.rps_fractional < 0.1
    assert found.application_utilization < 0.01


def test_it_is_renewed_ten_times_a_second_at_most() -> None:
    clock = Clock()
    report = LoadReport(clock)
    report.note("OK")
    clock.now += 0.099
    assert decoded(report).rps_fractional == 0
    clock.now += 0.002
    assert decoded(report).rps_fractional > 0


def test_work_that_goes_on_counts_before_it_ends() -> None:
    clock = Clock()
    report, busy = LoadReport(clock), admission(clock)
    report.watch([busy])
    with busy.admit({"things": 100}, "me"):
        clock.now += 10
        assert decoded(report).application_utilization == pytest.approx(1, rel=0.01)


class Working(Items):
    """Counts its calls, and holds a part of its work all the time; UpsertItems fails."""

    def __init__(self, held: int) -> None:
        self.held, self.calls, self.work = held, 0, admission()

    async def GetItems(self, request: Any, context: Any) -> item_service_pb2.GetItemsResponse:
        self.calls += 1
        return item_service_pb2.GetItemsResponse()

    async def UpsertItems(self, request: Any, context: Any) -> item_service_pb2.UpsertItemsResponse:
        raise Unavailable("STORE_UNAVAILABLE", "the store is away; retry")


@asynccontextmanager
async def working(held: int) -> AsyncIterator[tuple[str, Working]]:
    """Serve at an address, with `held` of 100 things in work."""
    servicer = Working(held)
    async with serving(servicer, admissions={"read": servicer.work}) as (server, _):
        with servicer.work.admit({"things": held}, "me"):
            yield server.address, servicer


def trailer_of(address: str, path: str) -> bytes:
    """Make a call; gRPC's core keeps the trailer from its callers."""
    with RawConnection(address) as connection:
        connection.open(1, path)
        connection.begin_message(1, 0)
        return binary_trailer(connection.next_end(), KEY)


async def test_every_call_of_ours_has_one_in_its_trailers() -> None:
    async with working(40) as (address, _):

        async def report_of(path: str) -> Any:
            return Report.FromString(await asyncio.to_thread(trailer_of, address, path))

        await report_of(GET)
        while not (await report_of(GET)).rps_fractional:  # noqa: ASYNC110 - it is renewed by time
            await asyncio.sleep(0.01)
        for path in (GET, UPSERT):  # one succeeds, the other fails
            found = await report_of(path)
            assert found.rps_fractional > 0
            assert 0 < found.application_utilization <= 0.4
        with pytest.raises(KeyError):  # that is no work
            await report_of("/grpc.health.v1.Health/Check")


async def test_a_weighted_round_robin_of_grpc_gives_the_fuller_server_fewer_calls() -> None:
    """The policy of gRPC's core, which Python, C++, Ruby and PHP use."""
    options = [("grpc.service_config", json.dumps(WEIGHTED)), ("grpc.enable_http_proxy", 0)]
    async with working(80) as (one, full), working(8) as (other, idle):
        target = f"ipv4:{one},{other}"
        async with grpc.aio.insecure_channel(target, options=options) as channel:
            get = channel.unary_unary(GET)

            async def calls() -> tuple[int, int]:
                before = full.calls, idle.calls
                for _ in range(40):
                    await get(b"", timeout=20, wait_for_ready=True)
                return full.calls - before[0], idle.calls - before[1]

            async with asyncio.timeout(60):
                while True:
                    to_full, to_idle = await calls()
                    if to_idle > 3 * to_full:
                        break
