"""Reads datasets: each function returns a `Dataset`, whose entries are items to store.

They know files only, no server: `sentinel import` stores what they yield.
"""

from __future__ import annotations

from sentinel_client.importers._columns import Column, Columns
from sentinel_client.importers._entries import (
    BrokenEntry,
    Dataset,
    Entry,
    FileSlice,
    ImportItem,
    LayoutError,
    Picture,
    digest_stamp,
    searchable,
)
from sentinel_client.importers.coco import coco
from sentinel_client.importers.flickr import flickr8k, flickr30k
from sentinel_client.importers.folders import folders
from sentinel_client.importers.parquet import parquet_table
from sentinel_client.importers.tables import csv_table, json_lines_table
from sentinel_client.importers.webdataset import webdataset

__all__ = [
    "BrokenEntry",
    "Column",
    "Columns",
    "Dataset",
    "Entry",
    "FileSlice",
    "ImportItem",
    "LayoutError",
    "Picture",
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
