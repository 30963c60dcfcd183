package sentinel.client;

import sentinel.search.v1.Item;

/**
 * The acknowledgement of one item of an ingest.
 *
 * @param item the item that was given
 * @param error why it is not stored; null if it is
 * @param digest hex SHA-256 of the content's bytes; empty for a failed item
 */
public record IngestResult(Item item, SentinelException error, String digest) {
  /** Whether the item is stored, and survives any crash. */
  public boolean isStored() {
    return error == null;
  }
}
