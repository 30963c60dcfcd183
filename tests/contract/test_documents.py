"""Every relative link and anchor in the documents resolves."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    path
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("deploy/**/*.md"))
    if path.is_file()
)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```$|`[^`\n]+`", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(document: Path) -> set[str]:
    """Return a document's anchors as GitHub names them; those of a Python file are its tests."""
    if document.suffix == ".py":
        return set(re.findall(r"^(?:async )?def (test_\w+)", document.read_text(), re.MULTILINE))
    text = re.sub(r"^```.*?^```$", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(document: Path) -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True,
        check=False,
    ).stdout.splitlines()  # fmt: skip
    broken = []
    for link in LINK.findall(without_code(document.read_text())):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (document.parent / name).resolve() if name else document
        path = str(target.relative_to(ROOT))
        exists = target.exists() and (
            not tracked or any(t == path or t.startswith(f"{path}/") for t in tracked)
        )
        if not exists or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


FILE = re.compile(r"`((?:[\w.-]+/)+[\w.-]*\.(?:py|proto|sh|yaml|toml|md|txt)|(?:[\w.-]+/)+)`")
PLACES = ("", "clients/python", "clients/app")


@pytest.mark.parametrize(
    "document",
    # Left out: files of the past, of other projects, and of benchmarks, which make some of theirs.
    [
        path
        for path in DOCUMENTS
        if path.stem not in {"CHANGELOG", "comparison", "benchmarks", "benchmarks-method"}
    ],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_files_of_ours_that_a_document_names_exist(document: Path) -> None:
    names = FILE.findall(document.read_text())
    tops = {path.name for place in PLACES for path in (ROOT / place).iterdir()}
    ours = [name for name in names if name.split("/")[0] in tops]
    missing = [name for name in ours if not any((ROOT / p / name).exists() for p in PLACES)]
    assert not missing


def test_each_guarantee_names_its_test_and_real_reasons_metrics_and_alerts() -> None:
    text = (ROOT / "docs" / "guarantees.md").read_text()
    promises, failures = text.split("## When something fails")
    for promise in re.split(r"^\* ", promises, flags=re.MULTILINE)[1:]:
        is_honest_limit = promise.startswith("A batch that failed as a whole")
        assert is_honest_limit or re.search(r"\.py#test_\w+\)", promise), promise
    rules = (ROOT / "deploy" / "prometheus" / "rules.yaml").read_text()
    alerts = set(re.findall(r"\bSentinel[A-Z]\w+", failures))
    assert alerts == set(re.findall(r"alert: (\w+)", rules)) - {"SentinelSearchSlow"}
    reasons = {name for name in re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b", failures)}
    known = (ROOT / "protos/sentinel/common/v1/error_reason.proto").read_text()
    assert {name for name in reasons if f"REASON_{name} =" not in known} == {"NOT_SERVING"}


def test_the_documents_are_found() -> None:
    assert ROOT / "README.md" in DOCUMENTS
    assert ROOT / "docs" / "architecture.md" in DOCUMENTS
