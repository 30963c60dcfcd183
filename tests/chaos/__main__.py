"""Run the chaos suite: `python -m tests.chaos --seed 1 --seconds 60`, as `make chaos` does."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import tempfile
from pathlib import Path

from tests import shared
from tests.chaos.bugs import BUGS
from tests.chaos.rounds import Chaos


def main() -> int:
    """Return 0 if nothing was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--faults", type=int, default=10**9, help="stop after so many")
    parser.add_argument("--lite", action="store_true", help="Milvus Lite with one gateway")
    parser.add_argument("--bug", choices=sorted(BUGS), default="", help="plant one; stop if found")
    parser.add_argument("--folder", type=Path, help="for data and logs; kept")
    given = parser.parse_args()
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
    reaper = shared.Reaper()
    try:
        with tempfile.TemporaryDirectory(dir=shared.folder()) as temporary:
            folder = given.folder or Path(temporary)
            folder.mkdir(parents=True, exist_ok=True)
            chaos = Chaos(folder.absolute(), given.seed, lite=given.lite, bug=given.bug)
            report = asyncio.run(
                chaos.run(
                    given.seconds, most_faults=given.faults, stop_at_violation=bool(given.bug)
                )
            )
    finally:
        reaper.finish()
    print(report)
    return 1 if report.violations else 0


if __name__ == "__main__":
    sys.exit(main())
