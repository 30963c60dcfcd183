"""The embedder's benchmark runs and writes what it promises; how fast anything is, is no matter."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.report import commit

pytest.importorskip("torch")  # of the original system's way, and of the random weights
pytest.importorskip("transformers")

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(700)
@pytest.mark.slow
def test_all_systems_are_measured_in_one_run_and_written_with_machine_and_commit(
    tmp_path: Path,
) -> None:
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "benchmarks.embedder", "--quick", "--size", "tiny"]
    command += ["--only", "throughput", "latency", "starts", "decoding"]
    command += ["--cache", str(tmp_path / "cache"), "--json", str(report)]
    command += ["--infinity-venv", str(tmp_path / "nothing")]
    printed = tmp_path / "printed"
    with printed.open("w") as output:
        # A group of its own: its servers end with it, also when it takes too long.
        running = subprocess.Popen(
            command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            code = running.wait(600)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGKILL)
    table = printed.read_text()
    assert code == 0, table
    written = json.loads(report.read_text())
    assert written["machine"]["cores"] > 0
    assert written["machine"]["packages"]["onnxruntime"]
    assert written["commit"] == commit()
    rows = {row["name"]: row for section in written["sections"].values() for row in section}
    rates = rows["JPEG of 12 Mpx: ours ÷ the fastest other"]["detail"]
    assert rates["ours"] > 2 * rates["Pillow, whole image"]
    assert "calculated, not measured" in rows["cores that feed B/16 on an H100"]["note"]
    for kind in ("text", "image"):
        for system in ("limit: same runtime in-process", "original: torch eager, one by one"):
            assert rows[f"{kind}: {system}"]["value"] > 0
        sentinel = f"{kind}: Sentinel, 32 callers"
        assert rows[sentinel]["value"] > 0
        for other in ("limit", "original"):
            row = rows[f"{sentinel} ÷ {other}"]
            # Side by side: a ratio for each round, in which all systems took their turn.
            assert len(row["detail"]["ratios"]) == 2
            assert row["target"]
            assert row["met"] in (True, False)
            assert row["name"] in table
        peer = rows[f"{sentinel} ÷ infinity, 32 callers"]
        assert peer["value"] is None
        assert "not installed" in peer["note"]
    [start] = [row for name, row in rows.items() if "the offline default" in name]
    assert start["target"] == "≤ 5 s"
    lone = rows["one text alone through gRPC minus the raw call, p50"]
    assert lone["target"] == "≤ 1.5 ms"
