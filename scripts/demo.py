"""`make demo`: index real photos on this machine and search them by text and by image.

It starts `sentinel up` on free ports, runs the commands that a user would type, shows their
output, and stops everything. It keeps its data in demo-out/, so a second run embeds nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SENTINEL = Path(sys.executable).parent / "sentinel"

# Photos in the wheels of scikit-image and scikit-learn.
SKIMAGE_PHOTOS = """
    astronaut.png brick.png camera.png cell.png chelsea.png clock_motion.png coffee.png coins.png
    grass.png gravel.png horse.png hubble_deep_field.jpg moon.png motorcycle_left.png page.png
    retina.jpg rocket.jpg
"""
QUERIES = [
    "a cat",
    "a cup of coffee",
    "motorbike",
    "a flower",
    "a rocket launch",
    "a temple in china",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, help="a folder of your own photos")
    parser.add_argument("--out", type=Path, default=ROOT / "demo-out", help="folder for all output")
    arguments = parser.parse_args()
    out = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    photos = arguments.photos.expanduser() if arguments.photos else sample_photos(out / "photos")
    collection = "photos" if arguments.photos else "samples"
    with sentinel_up(out / "data") as address:
        os.environ["SENTINEL_ADDRESS"] = address
        sentinel("index", photos, "--collection", collection)
        queries = out / "queries.txt"
        queries.write_text("\n".join(QUERIES) + "\n")
        sheet = out / "hits.html"
        for query in QUERIES[:2]:
            sentinel("search", query, "--collection", collection, "--limit", 3)
        sentinel("search", "-f", queries, "--collection", collection, "--limit", 4, "--html", sheet)
        pictures = sorted(path for path in photos.rglob("*") if path.suffix in {".jpg", ".png"})
        example = next((path for path in pictures if path.stem == "coffee"), pictures[0])
        sentinel("search", "--image", example, "--collection", collection, "--limit", 3)
    print(f"\nDone in {time.monotonic() - started:.0f} s. The hits as a page: {shown(sheet)}\n")
    print("Try it yourself:")
    print(f"  {shown(SENTINEL)} up --data {shown(out / 'data')}     # leave it running")
    print(f'  {shown(SENTINEL)} search "something to drink" --collection {collection}')
    print("  make demo PHOTOS=~/Pictures                  # the same with your own photos")


def sample_photos(folder: Path) -> Path:
    """Copy the sample photos into `folder` and return it."""
    import skimage
    import sklearn.datasets

    folder.mkdir(parents=True, exist_ok=True)
    sources = [Path(skimage.__file__).parent / "data" / name for name in SKIMAGE_PHOTOS.split()]
    sources += sorted((Path(sklearn.datasets.__file__).parent / "images").glob("*.jpg"))
    for source in sources:
        target = folder / source.name
        if source.exists() and not target.exists():
            shutil.copy(source, target)
    return folder


@contextlib.contextmanager
def sentinel_up(data: Path) -> Iterator[str]:
    """Run `sentinel up` on free ports and show its output; yield the gateway's address."""
    command = [str(SENTINEL), "up", "--data", str(data), "--port", "0"]
    print(f"$ sentinel {' '.join(shown(word) for word in command[1:])} &", flush=True)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    address = ""
    for line in process.stdout:
        print(line, end="", flush=True)
        if line.startswith("gateway"):
            address = line.split()[1]
        if line.strip().startswith("sentinel search"):
            break  # its last line after it has started
    if not address:
        sys.exit("sentinel up did not start; see above")
    try:
        yield address
    finally:
        process.send_signal(signal.SIGINT)
        if process.wait(timeout=60) != 0:
            sys.exit("sentinel up did not stop cleanly")


def sentinel(*arguments: object) -> None:
    """Show a command and run it; end the demo if it fails."""
    words = [str(argument) for argument in arguments]
    typed = " ".join(f'"{word}"' if " " in word else shown(word) for word in words)
    print(f"\n$ sentinel {typed}", flush=True)
    if subprocess.run([str(SENTINEL), *words], check=False).returncode != 0:
        sys.exit("the demo stops here: the command above failed")


def shown(path: object) -> str:
    """Return a path relative to the current folder, if it is inside."""
    text = str(path)
    return text.removeprefix(f"{Path.cwd()}{os.sep}")


if __name__ == "__main__":
    main()
