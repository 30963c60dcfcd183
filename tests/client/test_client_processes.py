"""A client in several processes, threads and event loops works or says at once what to do."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.client.fake_gateway import FakeGateway, hit

FORKED = "RuntimeError: this process was forked while a Sentinel client was open"
OTHER_LOOP = "RuntimeError: this client belongs to another event loop"
IN_CALLBACK = "RuntimeError: a callback or an asynchronous source of items cannot call"
CLOSED_IN_CALL = "RuntimeError: the client was closed during the call"
ENDED = "child ended with 0"


NO_HANDLERS = "skipping fork() handlers"


def run(case: str, address: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.client.process_cases", case, address],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("fork_before_the_first_call", ["True", ENDED, "True", ENDED, "True"]),
        ("fork_after_all_are_closed", ["True", ENDED, "True"]),
        (
            "fork_while_one_is_open",
            [FORKED, ENDED, FORKED, ENDED, "None", ENDED, FORKED, ENDED, FORKED, ENDED, "True"],
        ),
        ("fork_in_a_loop", [FORKED, ENDED, "True"]),
        ("spawn", ["True", "TypeError: a SentinelClient cannot be copied or sent to another"]),
        ("loops_in_threads", ["True"] * 5),
        (
            "one_client_in_two_loops",
            ["True", OTHER_LOOP, OTHER_LOOP, "True", OTHER_LOOP, "None"],
        ),
        ("a_call_in_a_callback", [IN_CALLBACK, "True"]),
        ("a_source_that_exits", ["SystemExit: stop", "True"]),
        ("close_in_the_middle", [CLOSED_IN_CALL, "RuntimeError: the client is closed"]),
        ("close_before_a_retry", ["RuntimeError: the client"]),
        ("exit_while_a_source_blocks_the_loop", ["left"]),
        ("exit_without_closing", ["1"]),
        ("close_after_the_exit", ["True", "None", "RuntimeError: the client is closed"]),
        ("collected_in_the_loop_thread", ["1", "True"]),
        ("a_stalled_source_and_exit", ["left"]),
    ],
)
def test_it_works_or_says_what_to_do(gateway: FakeGateway, case: str, expected: list[str]) -> None:
    gateway.hits = [hit(rank, 0.5) for rank in range(1, 99)]
    done = run(case, gateway.address)
    if NO_HANDLERS in done.stderr and "child ended with -11" in done.stdout:
        # gRPC says so if one of its threads was at work at the moment of the fork. Then its own
        # code may crash in the child, which nobody outside can prevent.
        done = run(case, gateway.address)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert len(lines) == len(expected), (lines, done.stderr)
    for line, start in zip(lines, expected, strict=True):
        assert line.startswith(start), (lines, done.stderr)
    assert "Exception ignored" not in done.stderr
