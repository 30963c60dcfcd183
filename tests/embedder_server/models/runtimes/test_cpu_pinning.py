"""`--cpus`: which cores a worker runs on."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from embedder_server.devices import parse_cpus, pin_to, usable_cores


@pytest.mark.parametrize(
    ("text", "cpus"),
    [("0", {0}), ("0-3", {0, 1, 2, 3}), ("0,2,4-6", {0, 2, 4, 5, 6}), (" 1 , 3 ", {1, 3})],
)
def test_lists_are_written_as_for_taskset(text: str, cpus: set[int]) -> None:
    assert parse_cpus(text) == cpus


@pytest.mark.parametrize("text", ["", "a", "3-1", "0-", "0,,1", "-1", "0-1-2"])
def test_what_is_no_list_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a list of CPUs"):
        parse_cpus(text)


def test_a_core_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(ValueError, match="CPU 9999 is not among those this process may use: "):
        pin_to("9999")


def test_an_empty_list_changes_nothing() -> None:
    before = os.sched_getaffinity(0)
    assert pin_to("") == usable_cores()
    assert os.sched_getaffinity(0) == before


def test_a_pinned_process_and_its_threads_stay_on_their_cores() -> None:
    core = min(os.sched_getaffinity(0))
    program = (
        "import os, threading\n"
        "from embedder_server.devices import pin_to\n"
        f"print(pin_to('{core}'))\n"
        "t = threading.Thread(target=lambda: print(*os.sched_getaffinity(0)))\n"
        "t.start(); t.join()\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == ["1", str(core)]
