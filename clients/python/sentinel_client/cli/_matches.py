"""Say how good the hits of a search are, and what the gateway tells about the query.

A bar is absolute: it shows how good a match is, not how it compares to the best one. Where nobody
knows what scores mean (`Hit.match`), there is no bar.
"""

from __future__ import annotations

from rich.text import Text

from sentinel_client import Hit, Match, SearchResult

# Parts of a bar for each step, and the longest word beside it.
_STEP_CHARS, _WORD_CHARS = 2, max(len(match.value) for match in Match)
_STEPS = {Match.WEAK: 1, Match.FAIR: 2, Match.STRONG: 3}
_COLOURS = {Match.WEAK: "yellow", Match.FAIR: "green", Match.STRONG: "bold green"}
BAR_CHARS = len(_STEPS) * _STEP_CHARS + 1 + _WORD_CHARS
NO_GOOD_MATCH = "No good match; the nearest are:"
# The model of `sentinel up` without a choice; docs/models.md has the figures.
_DEMO_MODEL = "conse-minilm-lite0"
_DEMO = "The demo model judges this badly; a real model does it far better (sentinel models)."


def bar(hit: Hit) -> Text:
    """Return the bar and the word of a hit, `BAR_CHARS` wide; empty if nobody knows."""
    if hit.match is None:
        return Text(" " * BAR_CHARS)
    steps = _STEPS[hit.match]
    return Text.assemble(
        ("━" * _STEP_CHARS * steps, _COLOURS[hit.match]),
        ("─" * _STEP_CHARS * (len(_STEPS) - steps), "bright_black"),
        f" {hit.match.value:{_WORD_CHARS}}",
    )


def percent(match: Match) -> int:
    """Return how far a bar is filled."""
    return round(100 * _STEPS[match] / len(_STEPS))


def remarks(result: SearchResult) -> list[str]:
    """Return what a person should know before the hits, a line each; mostly nothing."""
    lines = [notice.message for notice in result.notices]
    if result.hits and all(hit.match is Match.WEAK for hit in result):
        lines.append(NO_GOOD_MATCH)
        if result.model.model == _DEMO_MODEL:
            lines.insert(-1, _DEMO)
    return lines
