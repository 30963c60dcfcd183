"""The accuracy benchmark: its figures are those of a brute-force computation, for each layout."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from benchmarks.retrieval.__main__ import TO_IMAGE, TO_TEXT, published, rows_of
from benchmarks.retrieval.datasets import Picture, read
from benchmarks.retrieval.matches import (
    ABSENT,
    ABSENT_KIND,
    FOREIGN,
    FOUND,
    PRESENT,
)
from search_server.collections.match_levels import background_queries, levels_from
from sentinel_client import Q, SentinelClient
from sentinel_client.importers.dataset import LayoutError
from tests import photos, processes

ROOT = Path(__file__).parents[2]
STAMPS = Path("/usr/share/tuxpaint/stamps")
WORDS = {
    "astronaut": "a woman in a space suit",
    "chelsea": "a cat with green eyes",
    "coffee": "a cup of coffee on a table",
    "rocket": "a rocket at night",
    "horse": "a horse",
    "moon": "the surface of the moon",
    "coins": "old coins",
    "page": "a page of a book",
}
# A sixth caption, which papers leave out.
WAYS = ("{}", "a photo of {}", "{} in front of us", "here is {}", "{}, seen from afar", "x {} x")


def captions(name: str) -> list[str]:
    return [way.format(WORDS[name]) for way in WAYS]


def write_pictures(folder: Path) -> list[str]:
    """Write the photos under their names; the files' endings need not be true."""
    folder.mkdir(parents=True)
    for name in WORDS:
        (folder / f"{name}.jpg").write_bytes(photos.photo(name).read_bytes())
    return list(WORDS)


def small_flickr30k(root: Path) -> Path:
    names = write_pictures(root / "flickr30k-images")
    lines = [f"{n}.jpg#{at}\t{text}" for n in names for at, text in enumerate(captions(n)[:5])]
    (root / "results_20130124.token").write_text("\n".join([*lines, "no caption"]) + "\n")
    (root / "train.txt").write_text("page\n")
    (root / "test.txt").write_text("\n".join(names[:-1]) + "\n")
    return root


def small_coco(root: Path) -> Path:
    names = write_pictures(root / "val2017")
    images = [{"id": at, "file_name": f"{name}.jpg"} for at, name in enumerate(names)]
    rows = [
        {"id": 10 * at + n, "image_id": at, "caption": text}
        for at, name in enumerate(names)
        for n, text in enumerate(captions(name))
    ]
    (root / "annotations").mkdir()
    file = root / "annotations" / "captions_val2017.json"
    file.write_text(json.dumps({"images": images, "annotations": rows}))
    return root


def brute_force(address: str, pictures: Sequence[Picture]) -> dict[str, float]:
    """Compute R@k from all cosines, in percent, by the names of the report."""
    with SentinelClient(address) as client:
        images = client.embed([Q(image=picture.file) for picture in pictures])
        texts = client.embed([text for picture in pictures for text in picture.captions])
    owner = np.repeat(np.arange(len(pictures)), [len(one.captions) for one in pictures])
    cosines = texts @ images.T
    # The place of the right picture of each caption, and of the best right caption of a picture.
    right = cosines[np.arange(len(owner)), owner]
    places = (cosines > right[:, None]).sum(axis=1)
    of_picture = [
        (cosines[:, at] > cosines[owner == at, at].max()).sum() for at in range(len(pictures))
    ]
    return {
        f"{direction}: R@{k}": 100 * float(np.mean(np.array(found) < k))
        for direction, found in ((TO_IMAGE, places), (TO_TEXT, of_picture))
        for k in (1, 5, 10)
    }


def measured(tmp_path: Path, *words: str) -> Mapping[str, object]:
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "benchmarks.retrieval", "--json", str(report), *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: Mapping[str, object] = json.loads(report.read_text())
    return found


def figures(found: Mapping[str, object], section: str = "retrieval") -> dict[str, float]:
    sections = found["sections"]
    assert isinstance(sections, dict)
    return {row["name"]: row["value"] for row in sections[section]}


@pytest.mark.parametrize(
    ("name", "make", "counts"),
    [
        ("coco", small_coco, ("val2017", 8, 40)),
        ("flickr30k", small_flickr30k, ("test", 7, 35)),
    ],
)
@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_figures_are_those_of_brute_force(
    tmp_path: Path,
    default_worker: processes.Server,
    name: str,
    make: Callable[[Path], Path],
    counts: tuple[str, int, int],
) -> None:
    make(tmp_path / name)
    words = ("--dataset", name, "--datasets", str(tmp_path), "--only", "recall")
    found = measured(tmp_path, *words)
    assert (found["split"], found["pictures"], found["captions"]) == counts
    dataset = read(tmp_path / name)
    expected = brute_force(default_worker.address, dataset.pictures)
    assert figures(found) == pytest.approx(expected)
    # Neither all nor none, or wrong counting could hide.
    assert 0 < expected[f"{TO_IMAGE}: R@1"] < 100
    assert 0 < expected[f"{TO_TEXT}: R@1"] < 100


@pytest.mark.skipif(not STAMPS.is_dir(), reason="apt-get install tuxpaint-stamps-default")
@pytest.mark.quality
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_stamps_have_the_figures_of_brute_force(
    tmp_path: Path, default_worker: processes.Server
) -> None:
    found = measured(tmp_path, "--dataset", str(STAMPS), "--only", "recall")
    expected = brute_force(default_worker.address, read(STAMPS).pictures)
    # Stamps with one caption tie, and which comes first is chance.
    assert figures(found) == pytest.approx(expected, abs=1.0)


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_match_levels_are_judged_as_by_brute_force(
    tmp_path: Path, default_worker: processes.Server
) -> None:
    for at, path in enumerate(sorted(photos.all_photos())):
        folder = tmp_path / "set" / ("left" if at % 2 else "right")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{path.stem}.jpg").write_bytes(path.read_bytes())
        caption = WORDS.get(path.stem, path.stem.replace("_", " "))
        (folder / f"{path.stem}.txt").write_text(caption)
    drawings = tmp_path / "set" / "drawings"
    drawings.mkdir()
    (drawings / "x.jpg").write_bytes(photos.photo("moon").read_bytes())
    (drawings / "x.txt").write_text("left out")
    other = tmp_path / "other"
    shutil.copytree(drawings, other)
    (other / "x.txt").write_text("a quarterly report")
    words = ("--dataset", str(tmp_path / "set"), "--without", "drawings", "--only", "match")
    found = figures(measured(tmp_path, *words, "--absent", str(other)), "match")
    pictures = read(tmp_path / "set", {"drawings"}).pictures
    with SentinelClient(default_worker.address) as client:
        images = client.embed([Q(image=picture.file) for picture in pictures])
        texts = client.embed([picture.captions[0] for picture in pictures])
        background = client.embed(background_queries())
        foreign = client.embed(["a quarterly report"])
    levels = levels_from((background @ images.T).max(axis=1).tolist(), len(pictures))
    cosines = texts @ images.T
    folders = np.array([picture.file.parent.name for picture in pictures])
    own = np.eye(len(pictures), dtype=bool)
    present = cosines.max(axis=1)
    best = {
        PRESENT: present,
        FOUND: present[cosines.argmax(axis=1) == np.arange(len(pictures))],
        ABSENT: np.where(own, -1, cosines).max(axis=1),
        FOREIGN: (foreign @ images.T).max(axis=1),
        ABSENT_KIND: np.where(folders[:, None] == folders, -1, cosines).max(axis=1),
    }
    for way, scores in best.items():
        assert found[f"{way}: weak"] == pytest.approx(100 * np.mean(scores < levels.fair)), way
        strong = 100 * np.mean(scores >= levels.strong)
        assert found[f"{way}: strong"] == pytest.approx(strong), way
    for way in (ABSENT, ABSENT_KIND):
        wins = np.mean(present[:, None] > best[way])
        ties = np.mean(np.isclose(present[:, None], best[way], atol=1e-6))
        assert found[f"{way}: AUC"] == pytest.approx(wins, abs=ties + 1e-6), way
        assert found[f"{way}: weak"] > found[f"{PRESENT}: weak"]


def test_each_picture_counts_with_five_captions_and_only_the_test_split(tmp_path: Path) -> None:
    dataset = read(small_coco(tmp_path / "coco"))
    assert {len(picture.captions) for picture in dataset.pictures} == {5}
    split = {"images": [{"filename": f"{name}.jpg", "split": "test"} for name in ("moon", "page")]}
    (tmp_path / "coco" / "dataset_coco.json").write_text(json.dumps(split))
    dataset = read(tmp_path / "coco")
    assert (dataset.split, {one.file.stem for one in dataset.pictures}) == (
        "test",
        {"moon", "page"},
    )
    annotations = tmp_path / "coco" / "annotations" / "captions_val2017.json"
    shutil.copy(annotations, annotations.with_name("captions_val2014.json"))
    shutil.copytree(tmp_path / "coco" / "val2017", tmp_path / "coco" / "val2014")
    assert {one.file.parent.name for one in read(tmp_path / "coco").pictures} == {"val2014"}
    dataset = read(small_flickr30k(tmp_path / "anything"))
    assert (dataset.name, dataset.split, dataset.broken) == ("flickr30k", "test", 1)
    assert "page" not in {one.file.stem for one in dataset.pictures}


def test_any_folder_of_pictures_with_texts_is_a_dataset(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for name, text in (("one", "a moon\nla lune"), ("two", "\n")):
        (tmp_path / "a" / f"{name}.png").write_bytes(photos.photo("moon").read_bytes())
        (tmp_path / "a" / f"{name}.txt").write_text(text)
    (tmp_path / "three.jpg").write_bytes(b"")
    dataset = read(tmp_path)
    assert [picture.captions for picture in dataset.pictures] == [("a moon",)]
    assert dataset.broken == 1


@pytest.mark.parametrize("exists", [True, False])
def test_a_folder_without_captions_is_refused_with_what_is_supported(
    tmp_path: Path, exists: bool
) -> None:
    folder = tmp_path if exists else tmp_path / "coco"
    with pytest.raises(LayoutError, match="COCO nor of Flickr30k" if exists else "unpack"):
        read(folder)


def test_the_published_score_stands_beside_ours() -> None:
    found = {TO_IMAGE: {1: 0.6, 5: 0.8}, TO_TEXT: {1: 0.7}}
    score = published("clip-b32", "flickr30k")
    first, *others = rows_of(found, score)
    assert score == first.detail["published"] == 58.8
    assert "58.8 % (+1.2)" in first.note
    assert not any(row.note for row in others)
    assert "no published score" in rows_of(found, published("", "stamps"))[0].note
