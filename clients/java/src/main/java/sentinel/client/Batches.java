package sentinel.client;

import io.grpc.Status;
import java.util.ArrayList;
import java.util.Iterator;
import java.util.List;
import java.util.Queue;
import sentinel.search.v1.Item;

/** Groups the items of an ingest into batches of the size that the gateway advises. */
final class Batches {
  /**
   * Items that are sent together.
   *
   * @param attempt counts from 1
   * @param dueNanos when to send it, by {@link System#nanoTime}
   */
  record Batch(List<Item> items, int attempt, long dueNanos) {}

  private static final int MIB = 1024 * 1024;
  private static final int MAX_BATCH_BYTES = 14 * MIB;
  // An item of the largest size has a request of its own, which has a few more bytes.
  private static final int MAX_ITEM_BYTES = SentinelClient.MAX_MESSAGE_BYTES - 4096;
  private static final int DEFAULT_ITEMS = 64;

  private final Iterator<Item> items;
  private final Queue<IngestResult> results;
  private int maxItems = DEFAULT_ITEMS;
  private Item held; // did not fit into the batch before
  private RuntimeException failure;

  /**
   * Reads {@code items}.
   *
   * @param results gets the items that cannot be sent
   */
  Batches(Iterator<Item> items, Queue<IngestResult> results) {
    this.items = items;
    this.results = results;
  }

  /** Takes the gateway's advice for the size of the next batches; 0 is no advice. */
  void advise(int size) {
    maxItems = size == 0 ? DEFAULT_ITEMS : size;
  }

  /** Whether there is another batch; reads an item. */
  boolean hasNext() {
    held = nextItem();
    return held != null;
  }

  /** Returns the next batch; null at the end. */
  Batch next() {
    List<Item> batch = new ArrayList<>();
    int size = 0;
    while (batch.size() < maxItems) {
      Item item = nextItem();
      if (item == null) {
        break;
      }
      if (!batch.isEmpty() && size + item.getSerializedSize() > MAX_BATCH_BYTES) {
        held = item;
        break;
      }
      batch.add(item);
      size += item.getSerializedSize();
    }
    return batch.isEmpty() ? null : new Batch(batch, 1, System.nanoTime());
  }

  private Item nextItem() {
    if (held != null) {
      Item item = held;
      held = null;
      return item;
    }
    try {
      while (failure == null && items.hasNext()) {
        Item item = items.next();
        if (item.getSerializedSize() <= MAX_ITEM_BYTES) {
          return item;
        }
        String message = "larger than " + MAX_ITEM_BYTES / MIB + " MiB";
        SentinelException error =
            new SentinelException(Status.Code.INVALID_ARGUMENT, "IMAGE_TOO_LARGE", message);
        results.add(new IngestResult(item, error, ""));
      }
    } catch (RuntimeException error) {
      failure = error; // thrown when all items before it have a result
    }
    return null;
  }

  /** What reading the items threw; null if nothing. */
  RuntimeException failure() {
    return failure;
  }
}
