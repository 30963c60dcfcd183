"""Measure match levels: how often absent things are called weak matches, and present things, too.

A caption asks for a present thing if its pictures are in the collection, and for an absent one if
they are left out of the hits, which is the same search. Two ways to leave out: only the pictures of
this caption, where pictures of nearly the same may stay; and, if the dataset has folders, all
pictures of their folders, so that the kind of thing is absent. A third way are captions of another
dataset, of other things.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.report import Row
from benchmarks.retrieval.datasets import Captioned
from sentinel_client import Hit, Match, MatchLevels, SearchPage, SentinelClient

PRESENT = "present"
FOUND = "present, and found first"
ABSENT = "absent: pictures left out"
ABSENT_KIND = "absent: folder left out"
FOREIGN = "absent: captions of others"
# A gateway finds no levels for fewer pictures.
LEAST_PICTURES = 10
_PATIENCE_S = 300.0
_CAPTIONS_PER_CALL = 16
_MOST_HITS = 1_000


@dataclass(frozen=True, slots=True)
class Judged:
    """The best hits of all captions in one of the ways.

    Attributes:
        scores: Their cosines.
        matches: How good the gateway calls them.
    """

    scores: list[float]
    matches: list[Match | None]

    def add(self, hit: Hit) -> None:
        self.scores.append(hit.score)
        self.matches.append(hit.match)

    def share(self, match: Match) -> float:
        """Return the share of the captions whose best hit has this level."""
        return self.matches.count(match) / max(1, len(self.matches))


def wait_for_levels(client: SentinelClient, collection: str, items: int) -> MatchLevels | None:
    """Return the levels of a collection once they are those of its size; None if none come."""
    end = time.monotonic() + _PATIENCE_S
    while time.monotonic() < end:
        levels = client.get_collection(collection).match_levels
        if levels is not None and levels.item_count in (0, items):
            return levels
        time.sleep(0.2)
    return None


def judge(
    client: SentinelClient, collection: str, dataset: Captioned, others: Captioned | None = None
) -> dict[str, Judged]:
    """Search each caption among the pictures; return the best hits by way.

    `others` has captions of things that the pictures of `dataset` do not show.
    """
    owners: dict[str, set[str]] = {}
    folders: dict[str, set[str]] = {}
    for number, picture in enumerate(dataset.pictures):
        folders.setdefault(str(picture.file.parent), set()).add(str(number))
        for caption in picture.captions:
            owners.setdefault(caption, set()).add(str(number))
    left_out: dict[str, list[set[str]]] = {PRESENT: [set()] * len(owners)}
    left_out[ABSENT] = list(owners.values())
    if len(folders) > 1:
        of_picture = {number: group for group in folders.values() for number in group}
        left_out[ABSENT_KIND] = [
            set().union(*(of_picture[number] for number in own)) for own in owners.values()
        ]
    best: dict[str, Judged] = {way: Judged([], []) for way in (*left_out, FOUND)}
    own_pictures = list(owners.values())
    limit = min(_MOST_HITS, 1 + max(len(one) for sets in left_out.values() for one in sets))
    for at, hits in enumerate(_hits(client, collection, list(owners), limit)):
        if hits[0].id in own_pictures[at]:
            best[FOUND].add(hits[0])
        for way, sets in left_out.items():
            hit = next((one for one in hits if one.id not in sets[at]), None)
            if hit is not None:
                best[way].add(hit)
    if others is not None:
        foreign = {caption for picture in others.pictures for caption in picture.captions}
        best[FOREIGN] = Judged([], [])
        for hits in _hits(client, collection, sorted(foreign - owners.keys()), 1):
            best[FOREIGN].add(hits[0])
    return best


def _hits(
    client: SentinelClient,
    collection: str,
    captions: Sequence[str],
    limit: int,
) -> Iterator[tuple[Hit, ...]]:
    for start in range(0, len(captions), _CAPTIONS_PER_CALL):
        part = captions[start : start + _CAPTIONS_PER_CALL]
        for page in client.batch_search(part, collection=collection, limit=limit):
            if not isinstance(page, SearchPage):
                raise page
            yield page.hits


def rows_of(best: dict[str, Judged], levels: MatchLevels) -> list[Row]:
    """Return the rows of the report, in percent; AUC is that of the scores, from 0 to 1."""
    present = best[PRESENT]
    note = f"fair from {levels.fair:.3f}, strong from {levels.strong:.3f}"
    rows = [
        Row(f"{way}: {match.value}", 100 * judged.share(match), "%", note=note)
        for way, judged in best.items()
        for match in (Match.WEAK, Match.STRONG)
    ]
    rows += (
        Row(f"{way}: AUC", auc(present.scores, judged.scores), "", note="of present against absent")
        for way, judged in best.items()
        if way.startswith("absent")
    )
    return rows


def auc(positives: Sequence[float], negatives: Sequence[float]) -> float:
    """Return how often a positive scores more than a negative; equal scores count half."""
    ordered = np.sort(negatives)
    below = np.searchsorted(ordered, positives, side="left")
    up_to = np.searchsorted(ordered, positives, side="right")
    return float((below + up_to).sum() / 2 / (len(positives) * len(ordered)))
