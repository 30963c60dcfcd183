"""Read datasets: each function returns a `Dataset`, whose entries are items to store.

Importers read files and know no server. `sentinel import` stores what they yield. They block, and
raise LayoutError if the files do not have their layout, OSError if a file cannot be read.
`by_name` uses the dataset's names as ids instead of content hashes; `full_text` makes the captions
searchable.
"""

from __future__ import annotations

from sentinel_client.importers.captioned import coco, flickr8k, flickr30k
from sentinel_client.importers.columns import Column, Columns
from sentinel_client.importers.dataset import (
    BrokenEntry,
    Dataset,
    FileSlice,
    ImportItem,
    LayoutError,
)
from sentinel_client.importers.folders import Folders, folders
from sentinel_client.importers.photo_fields import PHOTO_FIELDS
from sentinel_client.importers.tables import csv_table, json_lines_table, parquet_table
from sentinel_client.importers.webdataset import webdataset

__all__ = [
    "PHOTO_FIELDS",
    "BrokenEntry",
    "Column",
    "Columns",
    "Dataset",
    "FileSlice",
    "Folders",
    "ImportItem",
    "LayoutError",
    "coco",
    "csv_table",
    "flickr8k",
    "flickr30k",
    "folders",
    "json_lines_table",
    "parquet_table",
    "webdataset",
]
