"""`sentinel embed` and `sentinel rank`: what they send, print and write."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sentinel.embedding.v1 import embedding_service_pb2 as pb
from sentinel_core import errors as core
from tests.client.fake_gateway import FakeGateway
from tests.client.test_cli import sentinel


def test_texts_lines_and_images_become_json_lines_in_order(
    gateway: FakeGateway, tmp_path: Path
) -> None:
    picture = tmp_path / "me.jpg"
    picture.write_bytes(b"12345")
    arguments = ("embed", "7", "8", "--image", picture, "--crop", "0,0,0.5,1", "-f", "-")
    result = sentinel(gateway, *arguments, text="\ufeff9\n\n  10  \n")
    assert result.exit_code == 0, result.output
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(one.get("text"), one.get("image"), one["vector"]) for one in records] == [
        ("7", None, [7, 0.5]),
        ("8", None, [8, 0.5]),
        (None, str(picture), [5, 0.5]),
        ("9", None, [9, 0.5]),
        ("10", None, [10, 0.5]),
    ]
    assert {one["model"] for one in records} == {"fake-clip"}
    [request] = gateway.calls["Embed"]
    assert request.contents[2].image.crop.right == 0.5


def test_a_float_is_the_shortest_that_is_the_same(gateway: FakeGateway) -> None:
    [line] = sentinel(gateway, "embed", "0.1").stdout.splitlines()
    assert '"vector": [0.1, 0.5]' in line


def test_options_are_sent(gateway: FakeGateway) -> None:
    options = ("--model", "m", "--dimensions", 2, "--no-normalize", "--role", "query")
    result = sentinel(gateway, "embed", "7", *options)
    assert result.exit_code == 0, result.output
    assert gateway.calls["Embed"][0].options == pb.EmbedOptions(
        model="m", dimensions=2, normalize=False, priority=pb.PRIORITY_BULK, role=pb.ROLE_QUERY
    )


def test_an_unknown_role_is_refused_before_anything_is_sent(gateway: FakeGateway) -> None:
    result = sentinel(gateway, "embed", "7", "--role", "passage")
    assert result.exit_code == 2
    assert "'query', 'document'" in result.output
    assert not gateway.calls["Embed"]


def test_a_numpy_file_has_a_row_for_each_content(gateway: FakeGateway, tmp_path: Path) -> None:
    file = tmp_path / "out.npy"
    lines = "BAD\n" + "".join(f"{number}\n" for number in range(300)) + "BAD\n"
    result = sentinel(gateway, "embed", "-f", "-", "-o", file, text=lines)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.count("BAD: cut it [TEXT_TOO_LONG]") == 2
    rows = np.load(file)
    assert (rows.shape, rows.dtype) == ((302, 2), np.float32)
    assert rows[1:-1, 0].tolist() == list(range(300))
    assert np.isnan(rows[[0, -1]]).all()
    assert os.listdir(tmp_path) == ["out.npy"]


def test_a_failed_call_leaves_the_old_file_alone(gateway: FakeGateway, tmp_path: Path) -> None:
    file = tmp_path / "out.npy"
    file.write_bytes(b"old")
    gateway.failures["Embed"].append(core.NotFound("MODEL_NOT_FOUND", "use another one"))
    result = sentinel(gateway, "embed", "7", "-o", file)
    assert result.exit_code == 2
    assert "use another one [MODEL_NOT_FOUND]" in result.stderr
    assert file.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["out.npy"]
    assert sentinel(gateway, "embed", "7", "-o", os.devnull).exit_code == 2
    assert sentinel(gateway, "embed", "7", "-o", tmp_path / "no" / "out.npy").exit_code == 2


def test_a_line_that_is_no_utf_8_is_named_after_the_good_ones(
    gateway: FakeGateway, tmp_path: Path
) -> None:
    file = tmp_path / "lines.txt"
    file.write_bytes(b"1\n2\n\xff\n")
    result = sentinel(gateway, "embed", "-f", file)
    assert result.exit_code == 2
    assert f"line 3 of {file} is not UTF-8" in result.stderr
    assert [json.loads(line)["text"] for line in result.stdout.splitlines()] == ["1", "2"]


def test_a_pipe_of_many_lines(gateway: FakeGateway) -> None:
    command = [sys.executable, "-m", "sentinel_client.cli", "--address", gateway.address]
    lines = "".join(f"{number}\n" for number in range(1_000))
    done = subprocess.run(
        [*command, "embed", "-f", "-"], input=lines, capture_output=True, text=True, check=True
    )
    assert [json.loads(one)["vector"][0] for one in done.stdout.splitlines()] == list(range(1_000))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("embed",), "say what to embed"),
        (("embed", "1", "--crop", "0,0,1,1"), "--crop is for --image"),
        (("embed", "--image", "missing.jpg"), "there is no file"),
        (("rank",), "say what to rank by"),
        (("rank", "a"), "say what to rank"),
    ],
)
def test_wrong_use_is_explained(
    gateway: FakeGateway, arguments: tuple[str, ...], message: str
) -> None:
    result = sentinel(gateway, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not gateway.calls


def test_a_ranking_is_a_table(gateway: FakeGateway) -> None:
    result = sentinel(gateway, "rank", "what", "first", "[red]second", "--top", 2)
    assert result.exit_code == 0, result.output
    assert re.search(r"1 +1\.000 +50\.0% +first", result.stdout)
    assert re.search(r"2 +0\.900 +50\.0% +\[red\]second", result.stdout)
    [request] = gateway.calls["Rank"]
    assert request.query.text == "what"
    assert (request.top_k, [one.text for one in request.candidates]) == (
        2,
        ["first", "[red]second"],
    )


def test_labels_are_ranked_by_an_image(gateway: FakeGateway, tmp_path: Path) -> None:
    picture = tmp_path / "me.jpg"
    picture.write_bytes(b"jpeg")
    result = sentinel(gateway, "rank", "--query-image", picture, "cat", "BAD", "dog", "--json")
    assert result.exit_code == 1
    assert "BAD: cut it [TEXT_TOO_LONG]" in result.stderr
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(one["rank"], one["index"], one["text"]) for one in records] == [
        (1, 0, "cat"),
        (2, 2, "dog"),
    ]
    assert gateway.calls["Rank"][0].query.image.data == b"jpeg"
