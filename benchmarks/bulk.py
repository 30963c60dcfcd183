"""Measure `sentinel bulk-index`: thousands of images, from an object store into Milvus.

    python -m benchmarks.bulk [--pictures 5000] [--model conse-minilm-lite0] [--json FILE]

Everything runs on this machine: SeaweedFS holds images, run folder and Milvus's files; Ray embeds
in local mode; the Milvus server imports the row files. Prints the figures for docs/scale.md: images
per second, bytes per row and per image, rows imported per second.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import s3fs
from pymilvus import MilvusClient
from rich.console import Console

from benchmarks import random_clip, report
from benchmarks.load import contents
from benchmarks.report import Row
from tests import milvus_server, s3_server

_HERE = Path(__file__).resolve().parent
_SHARD = 1_000


def main() -> None:
    arguments = _arguments()
    console = Console(width=None if sys.stdout.isatty() else 140)
    facts = {"machine": report.machine(), "commit": report.commit()}
    model = arguments.model
    if model in random_clip.SHAPES:
        model = str(random_clip.cached(model, arguments.cache.resolve()))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "s3").mkdir()
        with s3_server.running(folder / "s3") as store:
            bucket = store.bucket()
            with milvus_server.running(folder / "milvus", store, bucket) as milvus:
                rows = _measure(
                    store,
                    bucket,
                    milvus=milvus,
                    model=model,
                    pictures=arguments.pictures,
                    folder=folder,
                )
    report.print_report({"bulk": rows}, console)
    path = arguments.json or _HERE / "results" / f"bulk-{facts['commit']}.json"
    report.write_json(path, {"bulk": rows}, **facts, measured={"model": arguments.model})
    console.print(f"written to {path}")


def _measure(
    store: s3_server.S3Server,
    bucket: str,
    *,
    milvus: str,
    model: str,
    pictures: int,
    folder: Path,
) -> list[Row]:
    s3 = store.file_system()
    files = contents.jpegs(pictures, seed=31)
    different = len(set(files))  # a few are equal, as in any dataset
    for number, data in enumerate(files):
        s3.pipe_file(f"{bucket}/photos/{number:06}.jpg", data)
    environment = {**os.environ, **store.environment(), "RAY_USAGE_STATS_ENABLED": "0"}
    run = f"s3://{bucket}/run"
    command = [sys.executable, "-m", "sentinel_client.cli", "bulk-index", f"s3://{bucket}/photos"]
    command += ["--run", run, "--object-store-uri", f"s3://{bucket}/objects", "--model", model]
    command += ["--collection", "bulk", "--milvus-uri", milvus, "--shard-items", str(_SHARD)]

    def job(*more: str) -> tuple[float, str]:
        start = time.perf_counter()
        done = subprocess.run(
            [*command, *more], env=environment, cwd=folder, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"bulk-index: {done.stdout[-1000:]}{done.stderr[-2000:]}")
        return time.perf_counter() - start, done.stdout

    embedding, _ = job("--deliver", "files")
    importing, output = job("--deliver", "import", "--import-uri", f"s3://{bucket}/imports")
    again, _ = job("--deliver", "import", "--import-uri", f"s3://{bucket}/imports")
    client = MilvusClient(milvus)
    count = client.query("bulk", filter="", output_fields=["count(*)"])[0]["count(*)"]
    client.close()
    if count != different or f"{different:,} stored" not in output:
        raise SystemExit(f"{count} of {different} images are in the collection: {output}")
    return _rows(s3, bucket, pictures, seconds=(embedding, importing, again))


def _rows(
    s3: s3fs.S3FileSystem, bucket: str, pictures: int, *, seconds: tuple[float, float, float]
) -> list[Row]:
    embedding, importing, again = seconds
    row_bytes = sum(s3.info(path)["size"] for path in s3.glob(f"{bucket}/run/**/*.parquet"))
    object_bytes = s3.du(f"{bucket}/objects")
    start = f"{embedding:.0f} s in all, with the start of Ray"
    return [
        Row("read, embedded and written as rows", pictures / embedding, "images/s", note=start),
        Row("imported by the server", pictures / importing, "rows/s", note=f"{importing:.0f} s"),
        Row("the same command once more", again, "s", note="nothing left to do"),
        Row("of a row file, per image", row_bytes / pictures, "bytes"),
        Row("of image and thumbnail in the object store", object_bytes / pictures, "bytes"),
    ]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=5_000)
    parser.add_argument(
        "--model", default="conse-minilm-lite0",
        help=f"as of a worker's --model, or random weights: {', '.join(random_clip.SHAPES)}",
    )  # fmt: skip
    parser.add_argument("--cache", type=Path, default=_HERE / ".cache", help="for random weights")
    parser.add_argument("--json", type=Path, help="where to write; default benchmarks/results/")
    return parser.parse_args()


if __name__ == "__main__":
    main()
