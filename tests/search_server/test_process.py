"""What a gateway sets in its process before it imports anything large."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

_THREADS = """
import json, sys
from contextlib import suppress
from search_server.__main__ import main
sys.argv = ["sentinel-gateway", "--help"]
with suppress(SystemExit):
    main()
import numpy
from threadpoolctl import threadpool_info
pools = [one for one in threadpool_info() if one["internal_api"] == "openblas"]
print()
print(json.dumps([pool["num_threads"] for pool in pools]))
"""


def test_no_threads_of_numpy_wait_for_work_in_a_loop() -> None:
    """They do it after each product of matrices: 42 % of the CPU time of a gateway under load."""
    environment = {key: value for key, value in os.environ.items() if "NUM_THREADS" not in key}
    done = subprocess.run(
        [sys.executable, "-c", _THREADS],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    threads = json.loads(done.stdout.splitlines()[-1])
    if not threads:
        pytest.skip("this NumPy has another BLAS")
    assert set(threads) == {1}
