"""Read datasets: each function returns a `Dataset`, whose entries are items to store.

Importers read files and know no server. `sentinel import` stores what they yield.
"""

from __future__ import annotations

from sentinel_client.importers.captioned import coco, flickr8k, flickr30k
from sentinel_client.importers.columns import Column, Columns
from sentinel_client.importers.dataset import (
    BrokenEntry,
    Dataset,
    FileSlice,
    ImportEntry,
    ImportItem,
    LayoutError,
    digest_stamp,
    searchable,
)
from sentinel_client.importers.folders import folders
from sentinel_client.importers.tables import csv_table, json_lines_table, parquet_table
from sentinel_client.importers.webdataset import webdataset

__all__ = [
    "BrokenEntry",
    "Column",
    "Columns",
    "Dataset",
    "FileSlice",
    "ImportEntry",
    "ImportItem",
    "LayoutError",
    "coco",
    "csv_table",
    "digest_stamp",
    "flickr8k",
    "flickr30k",
    "folders",
    "json_lines_table",
    "parquet_table",
    "searchable",
    "webdataset",
]
