"""What one search of the command line looks for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Query:
    """Words, a picture, or a stored item.

    Attributes:
        title: What people read above the hits.
        text: Words to look for, or None.
        image: Picture to look for, or None.
        item_id: Stored item to look for, or None.
    """

    title: str
    text: str | None = None
    image: Path | None = None
    item_id: str | None = None

    @classmethod
    def of_text(cls, text: str) -> Query:
        """Return a query of words."""
        text = _valid(text)
        return cls(text, text=text)

    @classmethod
    def of_image(cls, path: Path) -> Query:
        """Return a query of a picture."""
        return cls(_valid(str(path)), image=path)

    @classmethod
    def of_item(cls, item_id: str) -> Query:
        """Return a query of a stored item."""
        return cls(item_id, item_id=item_id)

    @property
    def kind(self) -> str:
        """`text`, `image` or `item`."""
        if self.image is not None:
            return "image"
        return "item" if self.item_id is not None else "text"

    @property
    def heading(self) -> str:
        """What stands above the hits."""
        prefix = {"text": "", "image": "like ", "item": "like item "}[self.kind]
        title = self.title if self.image is None else _valid(self.image.name)
        return f"{prefix}{title[:16] if self.kind == 'item' else title}"


def _valid(text: str) -> str:
    """Return what was typed or named as valid Unicode, which bytes of a terminal need not be."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
