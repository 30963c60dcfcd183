"""`sentinel search` says how good its hits are, and what the gateway tells about the query."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from sentinel.common.v1 import content_pb2
from sentinel.search.v1 import search_service_pb2 as pb
from sentinel_client.cli import main
from tests.client.fake_gateway import FakeGateway, hit

WEAK, FAIR, STRONG = pb.MATCH_LEVEL_WEAK, pb.MATCH_LEVEL_FAIR, pb.MATCH_LEVEL_STRONG
GERMAN = pb.Notice(kind=pb.Notice.KIND_LANGUAGE_UNKNOWN, message="It <seems> to be in German.")
NO_GOOD_MATCH = "No good match; the nearest are:"


def search(gateway: FakeGateway, *arguments: object) -> Result:
    command = ["--address", gateway.address, "search", "x", *map(str, arguments)]
    result = CliRunner().invoke(main, command, env={"COLUMNS": "100"})
    assert result.exit_code == 0, result.output
    return result


def show(gateway: FakeGateway, *levels: pb.MatchLevel) -> None:
    gateway.hits = [
        hit(rank, 0.9 - rank / 100, f"/p/{rank}.jpg", match_level=level)
        for rank, level in enumerate(levels, 1)
    ]


def test_bars_and_words_tell_how_good_each_hit_is(gateway: FakeGateway) -> None:
    show(gateway, STRONG, FAIR, WEAK)
    shown = search(gateway).stdout
    assert re.search(r"0\.890 ━━━━━━ strong +1\.jpg", shown)
    assert re.search(r"0\.880 ━━━━── fair +2\.jpg", shown)
    assert re.search(r"0\.870 ━━──── weak +3\.jpg", shown)
    assert NO_GOOD_MATCH not in shown


def test_a_bar_does_not_depend_on_the_other_hits(gateway: FakeGateway) -> None:
    show(gateway, WEAK)
    assert re.search(r"0\.890 ━━──── weak", search(gateway).stdout)


def test_without_levels_there_is_no_bar_and_no_judgement(gateway: FakeGateway) -> None:
    show(gateway, pb.MATCH_LEVEL_UNSPECIFIED)
    shown = search(gateway).stdout
    assert re.search(r"1 +0\.890 +1\.jpg", shown)
    assert NO_GOOD_MATCH not in shown
    show(gateway, WEAK, pb.MATCH_LEVEL_UNSPECIFIED)  # such as a text, which nobody judges
    assert NO_GOOD_MATCH not in search(gateway).stdout


def test_weak_hits_are_called_no_good_match(gateway: FakeGateway, tmp_path: Path) -> None:
    show(gateway, WEAK, WEAK)
    lines = search(gateway).stdout.splitlines()
    assert lines.index(NO_GOOD_MATCH) < next(n for n, line in enumerate(lines) if "1.jpg" in line)
    assert NO_GOOD_MATCH not in search(gateway, "-q").stdout
    assert search(gateway, "--paths").stdout == "/p/1.jpg\n/p/2.jpg\n"
    assert NO_GOOD_MATCH in search(gateway, "--paths").stderr
    sheet = tmp_path / "out.html"
    search(gateway, "--html", sheet)
    page = sheet.read_text()
    assert f'<p class="remark">{NO_GOOD_MATCH}</p>' in page
    assert page.count('<div class="bar"><i style="width:33%">') == 2
    assert "0.890 weak" in page


def test_the_demo_model_is_called_a_bad_judge(gateway: FakeGateway) -> None:
    show(gateway, WEAK)
    assert "demo model" not in search(gateway).stdout
    gateway.model = content_pb2.ModelVersion(model="conse-minilm-lite0")
    assert "The demo model judges this badly" in search(gateway).stdout
    show(gateway, FAIR)
    assert "demo model" not in search(gateway).stdout


def test_notices_are_shown_with_the_hits(gateway: FakeGateway, tmp_path: Path) -> None:
    show(gateway, STRONG)
    gateway.notices = [GERMAN]
    assert GERMAN.message in search(gateway).stdout
    sheet = tmp_path / "out.html"
    search(gateway, "--html", sheet)
    assert '<p class="remark">It &lt;seems&gt; to be in German.</p>' in sheet.read_text()


def test_json_has_match_and_notices(gateway: FakeGateway) -> None:
    show(gateway, STRONG, pb.MATCH_LEVEL_UNSPECIFIED)
    gateway.notices = [GERMAN]
    first, second = map(json.loads, search(gateway, "--json").stdout.splitlines())
    assert (first["match"], second["match"]) == ("strong", None)
    assert first["notices"] == [{"kind": "language_unknown", "message": GERMAN.message}]


@pytest.mark.parametrize("width", [30, 56, 72])
def test_narrow_terminals_leave_out_the_bar(gateway: FakeGateway, width: int) -> None:
    show(gateway, STRONG)
    command = ["--address", gateway.address, "search", "x"]
    shown = CliRunner().invoke(main, command, env={"COLUMNS": str(width)}).stdout
    [row] = [line for line in shown.splitlines() if "0.890" in line]
    assert len(row) <= width and "1.jpg" in row
    assert ("strong" in row) == (width >= 56)
