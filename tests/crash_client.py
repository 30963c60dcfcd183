"""An importer as its own process: `python -m tests.crash_client ADDRESS JOURNAL FIRST LAST`.

Sends the batches FIRST to before LAST on one IngestItems stream and writes the number of each
acknowledged one to the journal. Ends with 0 after the summary, with 3 when the stream broke.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import grpc

from sentinel.search.v1 import item_service_pb2 as pb
from sentinel.search.v1 import item_service_pb2_grpc as pb_grpc
from tests.search_server.items.ingesting import picture_item

COLLECTION = "album"
ITEMS_PER_BATCH = 4


def item_id(number: int) -> str:
    return f"item-{number:06d}"


def items(batch: int) -> list[pb.Item]:
    """Return the items of a batch, of which each import makes the same."""
    first = batch * ITEMS_PER_BATCH
    return [
        picture_item(number, item_id(number)) for number in range(first, first + ITEMS_PER_BATCH)
    ]


def messages(first: int, last: int) -> Iterator[pb.IngestItemsRequest]:
    yield pb.IngestItemsRequest(start=pb.IngestStart(collection=COLLECTION))
    for number in range(first, last):
        yield pb.IngestItemsRequest(batch=pb.IngestBatch(sequence=number, items=items(number)))


def main() -> int:
    address, journal, first, last = sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:5])
    with grpc.insecure_channel(address) as channel, journal.open("a") as log:
        stub = pb_grpc.ItemServiceStub(channel)
        try:
            for answer in stub.IngestItems(messages(first, last), timeout=60):
                if answer.WhichOneof("message") == "ack":
                    assert not answer.ack.failures, answer.ack
                    log.write(f"{answer.ack.sequence}\n")
                    log.flush()  # what it does not know of any more, nobody was promised
        except grpc.RpcError as error:
            print(error, file=sys.stderr)
            return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
