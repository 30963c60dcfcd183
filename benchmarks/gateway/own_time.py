"""Measure what a search costs in our own Python, between gRPC and Milvus.

    python -m benchmarks.gateway.own_time [--rounds 7] [--seconds 4] [--beside FOLDER]

The handler of Search is called in a loop in one process (`in_handler`), for 20 hits of each kind.
With another checkout both take turns. The least of a turn is hardly disturbed by other work on the
machine, so the figures are medians of the least.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from benchmarks.load.agents import ROOT
from benchmarks.report import Row, commit, median, median_ratio, print_report
from benchmarks.servers import worker

_KINDS = {
    "images": "20 images",
    "fields": "20 images with 3 fields",
    "vectors": "20 items without images",
}


def main() -> None:
    arguments = _arguments()
    systems = {commit(): ROOT}
    if arguments.beside:
        other = arguments.beside.resolve()
        systems[other.name] = other
    least: dict[str, dict[str, list[float]]] = {
        name: {kind: [] for kind in _KINDS} for name in systems
    }
    with tempfile.TemporaryDirectory() as folder, worker(Path(folder)) as embedder:
        for _ in range(arguments.rounds):
            for kind in _KINDS:
                for name, checkout in systems.items():
                    times = _turn(checkout, embedder.address, arguments.seconds, kind, Path(folder))
                    least[name][kind].append(min(times))
    console = Console(width=None if sys.stdout.isatty() else 140)
    print_report({"own Python of a search": _rows(least)}, console)


def _turn(checkout: Path, address: str, seconds: int, kind: str, folder: Path) -> list[float]:
    """Return the microseconds of a search, some hundred times."""
    code = [checkout, checkout / "clients/python", checkout / "protos/gen/python"]
    script = Path(__file__).with_name("in_handler.py")
    log = folder / "log"
    with log.open("w") as lines:
        done = subprocess.run(
            [sys.executable, script, address, str(seconds), kind],
            check=False,
            stdout=subprocess.PIPE,
            stderr=lines,  # access lines are written, as in a gateway
            text=True,
            cwd=folder,
            env={"PYTHONPATH": ":".join(map(str, code)), "OPENBLAS_NUM_THREADS": "1"},
        )
    if done.returncode:
        sys.exit(f"{checkout}: {log.read_text()[-2000:]}")
    return [float(line) for line in done.stdout.split()]


def _rows(least: dict[str, dict[str, list[float]]]) -> list[Row]:
    rows = []
    first, *others = least
    for kind, meaning in _KINDS.items():
        for name, measured in least.items():
            note = ", ".join(f"{value:.0f}" for value in measured[kind])
            rows.append(Row(f"{name}: {meaning}", median(measured[kind]), "µs", note=note))
        for other in others:
            ratio = median_ratio(least[first][kind], least[other][kind])
            rows.append(Row(f"{meaning}: {first} ÷ {other}", ratio, "x"))
    return rows


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=int, default=4, help="of each turn")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each system")
    parser.add_argument("--beside", type=Path, help="another checkout, which is compared")
    return parser.parse_args()


if __name__ == "__main__":
    main()
