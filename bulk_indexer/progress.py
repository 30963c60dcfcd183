"""How far a run is: a bar on a terminal, as in `sentinel index`; elsewhere the log says it."""

from __future__ import annotations

from contextlib import AbstractContextManager

from sentinel_client.cli._console import RateColumn, err, progress_bar

# Entries are counted shard by shard, which may be minutes apart.
_RATE_OVER_S = 1800.0


class RunProgress(AbstractContextManager["RunProgress"]):
    """The bar of one run; shown within the block."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._bar = progress_bar(err(quiet=quiet), RateColumn("entries"), rate_over_s=_RATE_OVER_S)
        self._task = self._bar.add_task("starting", total=None)

    @property
    def is_shown(self) -> bool:
        """Whether somebody sees it, so that the log need not say the same."""
        return not self._bar.disable

    def __enter__(self) -> RunProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def say(self, doing: str) -> None:
        """Show what the run does now."""
        self._bar.update(self._task, description=doing)

    def plan(self, entries: int) -> None:
        """Show of how many entries the dataset is."""
        self._bar.update(self._task, total=entries)

    def advance(self, entries: int) -> None:
        """Count entries that are indexed or have failed."""
        self._bar.advance(self._task, entries)
