package sentinel.client;

import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.Iterator;
import java.util.List;
import java.util.NoSuchElementException;
import java.util.Queue;
import java.util.Set;
import java.util.function.Function;
import sentinel.search.v1.Item;

/** The items of another iterator that are not stored yet. Asks the gateway for many at once. */
final class Unstored implements Iterator<Item> {
  private static final int MAX_ITEMS = 100;
  private static final int MAX_BYTES = 16 * 1024 * 1024;

  private final Iterator<Item> items;
  private final Function<List<String>, List<String>> missing;
  private final Queue<Item> found = new ArrayDeque<>();

  /**
   * Filters {@code items}.
   *
   * @param missing returns those ids that are not in the collection
   */
  Unstored(Iterator<Item> items, Function<List<String>, List<String>> missing) {
    this.items = items;
    this.missing = missing;
  }

  @Override
  public boolean hasNext() {
    while (found.isEmpty() && items.hasNext()) {
      List<Item> chunk = new ArrayList<>();
      int size = 0;
      while (items.hasNext() && chunk.size() < MAX_ITEMS && size < MAX_BYTES) {
        Item item = withId(items.next());
        chunk.add(item);
        size += item.getSerializedSize();
      }
      Set<String> ids = new HashSet<>(missing.apply(chunk.stream().map(Item::getId).toList()));
      chunk.stream().filter(item -> ids.contains(item.getId())).forEach(found::add);
    }
    return !found.isEmpty();
  }

  @Override
  public Item next() {
    if (!hasNext()) {
      throw new NoSuchElementException("no more items");
    }
    return found.remove();
  }

  private static Item withId(Item item) {
    return item.getId().isEmpty()
        ? item.toBuilder().setId(Contents.id(item.getContent())).build()
        : item;
  }
}
