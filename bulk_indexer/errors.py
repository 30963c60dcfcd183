"""What ends a run. What is wrong with one item never does: it becomes a line of the report."""

from __future__ import annotations


class BulkError(Exception):
    """The run cannot go on; the message says why and what to do.

    What is finished stays finished: the same command goes on from there.
    """
