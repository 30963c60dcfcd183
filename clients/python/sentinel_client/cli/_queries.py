"""What one search of the command line looks for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from sentinel_client._query import Box, Q
from sentinel_client._types import ImageUri


@dataclass(frozen=True, slots=True)
class Query:
    """Words, a picture, or a stored item.

    Attributes:
        title: What people read above the hits.
        text: Words to look for, or None.
        image: Picture to look for, or None.
        item_id: Stored item to look for, or None.
        mixed: What is mixed in, as people read it.
    """

    title: str
    text: str | None = None
    image: Path | ImageUri | None = None
    item_id: str | None = None
    mixed: str = ""

    @classmethod
    def of_text(cls, text: str) -> Query:
        """Return a query of words."""
        text = valid(text)
        return cls(text, text=text)

    @classmethod
    def of_image(cls, image: Path | ImageUri) -> Query:
        """Return a query of a picture."""
        return cls(valid(image.uri if isinstance(image, ImageUri) else str(image)), image=image)

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
        title = self.title if self.image is None else PurePosixPath(self.title).name
        return f"{prefix}{title[:16] if self.kind == 'item' else title}{self.mixed}"

    def alone(self, crop: Box | None) -> Q:
        """Return what the client takes, without what is mixed in."""
        return Q(
            self.text,
            image=self.image,
            item_id=self.item_id,
            crop=None if self.image is None else crop,
        )


def valid(text: str) -> str:
    """Return what was typed or named as valid Unicode, which bytes of a terminal need not be."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
