"""Read the rows of a CSV or TSV file one by one, in bounded memory.

Python's `csv` reads the rows. It takes a quote that is never closed for a cell that ends at the
next quote or at the end of the file, with all rows between in it. So a row of several lines is read
again strictly. If that fails, only its first line is broken, and the next line begins a row.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from typing import IO

from sentinel_client.importers.rows import MAX_LINE, NOT_UTF8, RowError, TableRow, is_unicode

# How the byte order marks of UTF-16 look when they are read as UTF-8 with `surrogateescape`.
_UTF_16 = ("\udcff\udcfe", "\udcfe\udcff")


def csv_header(file: IO[bytes], delimiter: str = ",") -> list[str]:
    """Return the names of the columns, as `read_csv`."""
    return [name for name in _header(_Lines(file), delimiter) if name]


def read_csv(
    file: IO[bytes], delimiter: str = ",", *, allow_short: bool = False, strip: bool = False
) -> Iterator[TableRow | RowError]:
    """Yield the rows of a file in UTF-8, numbered by their first line. Empty lines are skipped.

    Columns without a name are left out, as pandas writes one for its index; so are empty cells
    beyond the last column. With a tab as delimiter, quotes are text: TSV has no quoting.

    Args:
        file: Its first line names the columns.
        delimiter: Separates the cells.
        allow_short: Accept rows with fewer cells than columns; the last columns are left out.
        strip: Remove white space around cells.

    Raises:
        ValueError: The first line is not CSV, or names two columns the same.
    """
    lines = _Lines(file)
    header = _header(lines, delimiter)
    named = [(place, name) for place, name in enumerate(header) if name]
    while True:
        lines.begin_row()
        try:
            cells = _next_row(lines, delimiter)
        except ValueError as error:
            yield RowError(lines.first_number, str(error))
            continue
        if cells is None:
            return
        while len(cells) > len(header) and not cells[-1]:
            cells.pop()
        if not cells:
            continue
        if len(cells) > len(header) or (len(cells) < len(header) and not allow_short):
            message = f"the row has {len(cells)} columns, the header {len(header)}"
            yield RowError(lines.first_number, message)
        elif not is_unicode(cells):
            yield RowError(lines.first_number, NOT_UTF8)
        else:
            values = {name: cells[place] for place, name in named if place < len(cells)}
            if strip:
                values = {name: value.strip() for name, value in values.items()}
            yield TableRow(lines.first_number, values)


class _Lines:
    """The lines of a file. Those of the row being read are kept, and can be read again."""

    def __init__(self, file: IO[bytes]) -> None:
        self._text = io.TextIOWrapper(
            file, encoding="utf-8-sig", errors="surrogateescape", newline=""
        )
        self._again: list[str] = []
        self.row: list[str] = []
        self.first_number = 1
        self.ended = False

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._again.pop() if self._again else self._text.readline(MAX_LINE + 1)
        if not line:
            self.ended = True
            raise StopIteration
        self.row.append(line)
        if len(line) > MAX_LINE:
            while line and not line.endswith(("\n", "\r")):
                line = self._text.readline(MAX_LINE)
            raise ValueError(f"the line is longer than {MAX_LINE:,} characters")
        return line

    def begin_row(self) -> None:
        """Forget the lines of the row before."""
        self.first_number += len(self.row)
        self.row, self.ended = [], False

    def keep_first(self) -> None:
        """End the row with its first line; the others are read again."""
        self._again.extend(reversed(self.row[1:]))
        del self.row[1:]


def _header(lines: _Lines, delimiter: str) -> list[str]:
    """Return the column names, "" for columns without one."""
    try:
        cells = _next_row(lines, delimiter) or []
    except ValueError as error:
        raise ValueError(f"the header is not CSV: {error}") from error
    if cells and cells[0].startswith(_UTF_16):
        raise ValueError("the file is UTF-16: save it as UTF-8")
    names = [name.encode(errors="surrogateescape").decode(errors="replace") for name in cells]
    repeated = {name for name in names if name and names.count(name) > 1}
    if repeated:
        raise ValueError(f"the header has two columns {', '.join(sorted(repeated))}: rename one")
    return names


def _next_row(lines: _Lines, delimiter: str) -> list[str] | None:
    """Return the cells of the next row, [] for an empty line, None at the end.

    Raises ValueError if the row is not CSV; the next call continues with the line after its first.
    """
    try:
        if delimiter == "\t":
            rows = csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE)
        else:
            rows = csv.reader(lines, delimiter=delimiter)
        cells = next(rows, None)
    except csv.Error:
        unclosed = len(lines.row) > 1
        lines.keep_first()
        limit = csv.field_size_limit()
        raise ValueError(
            f"a cell has more than {limit:,} characters"
            + (", perhaps because of a quote that is not closed" if unclosed else "")
        ) from None
    if lines.row and (lines.ended or len(lines.row) > 1) and not _is_strict(lines.row, delimiter):
        lines.keep_first()
        raise ValueError("a quote is not closed; write a quote inside a quoted cell twice")
    return cells


def _is_strict(row: Sequence[str], delimiter: str) -> bool:
    """Return whether lines are one row in which quotes only begin, end and are doubled in cells."""
    try:
        return len(list(csv.reader(row, delimiter=delimiter, strict=True))) == 1
    except csv.Error:
        return False
