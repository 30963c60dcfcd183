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
    """Return the anchors that GitHub gives to a document's headings."""
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


def test_the_documents_are_found() -> None:
    assert ROOT / "README.md" in DOCUMENTS
    assert ROOT / "docs" / "architecture.md" in DOCUMENTS
