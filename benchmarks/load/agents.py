"""Agents: child processes that run commands, with JSON lines as requests and answers.

The load generators and the models called directly are agents. So none of them shares an
interpreter with another, and the CPU time of each is known.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
_ANSWER_TIMEOUT_S = 700.0  # above the longest load


class AgentError(RuntimeError):
    """A command failed, or its process ended."""


class Agent:
    """A child process that runs `python -m MODULE`, whose `main` calls `serve`."""

    def __init__(self, module: str) -> None:
        self.module = module
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    def call(self, operation: str, **arguments: Any) -> dict[str, Any]:
        """Run one command and return its answer."""
        self.start(operation, **arguments)
        return self.answer()

    def start(self, operation: str, **arguments: Any) -> None:
        """Start a command; `answer` waits for its result."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"operation": operation, **arguments}) + "\n")
        self._process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """Wait for the result of the last command.

        Raises:
            AgentError: It failed or took too long, or the process ended.
        """
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], _ANSWER_TIMEOUT_S)
        line = self._process.stdout.readline() if ready else ""
        if not line:
            raise AgentError(f"{self.module} gave no answer")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise AgentError(f"{self.module}: {answer['error']}")
        return answer

    def close(self) -> None:
        """Terminate the process."""
        self._process.terminate()
        self._process.wait(timeout=30)


@contextlib.contextmanager
def agent(module: str) -> Iterator[Agent]:
    """Run an agent for the length of a `with` block."""
    child = Agent(module)
    try:
        yield child
    finally:
        child.close()


def serve(operations: Mapping[str, Callable[..., dict[str, Any]]]) -> None:
    """Run the commands from standard input until it is closed."""
    # Keep the output of libraries out of the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        arguments = json.loads(line)
        name = arguments.pop("operation")
        cpu = time.process_time()
        try:
            answer = operations[name](**arguments)
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{name}: {type(error).__name__}: {error}"}
        else:
            answer["cpu_seconds"] = time.process_time() - cpu
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def calls_per_second(call: Callable[[], object], seconds: float) -> float:
    """Return the rate of `call` in calls a second, after one call that does not count."""
    call()
    calls = 0
    start = time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        call()
        calls += 1
    return calls / elapsed
