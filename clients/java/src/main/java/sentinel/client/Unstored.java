package sentinel.client;

import java.nio.charset.StandardCharsets;
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

/**
 * The items of another iterator that are not stored yet. Asks the gateway for many at once.
 *
 * <p>It passes on, without asking, items whose id only the gateway knows, such as those with a URI.
 * It also passes on items whose id breaks the rules: the gateway fails each of them alone, but it
 * would refuse the whole question.
 */
final class Unstored implements Iterator<Item> {
  private static final int MAX_ITEMS = 100;
  private static final int MAX_BYTES = 16 * 1024 * 1024;
  private static final int MAX_ID_BYTES = 256;

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
      Set<String> stored = stored(chunk);
      chunk.stream().filter(item -> !stored.contains(item.getId())).forEach(found::add);
    }
    return !found.isEmpty();
  }

  private Set<String> stored(List<Item> chunk) {
    List<String> asked =
        chunk.stream().map(Item::getId).filter(Unstored::isId).distinct().toList();
    Set<String> stored = new HashSet<>(asked);
    if (!asked.isEmpty()) {
      missing.apply(asked).forEach(stored::remove);
    }
    return stored;
  }

  @Override
  public Item next() {
    if (!hasNext()) {
      throw new NoSuchElementException("no more items");
    }
    return found.remove();
  }

  private static Item withId(Item item) {
    return item.getId().isEmpty() && !Contents.bytes(item.getContent()).isEmpty()
        ? item.toBuilder().setId(Contents.id(item.getContent())).build()
        : item;
  }

  /** Whether the contract allows this id. A half of a surrogate pair has no UTF-8. */
  private static boolean isId(String id) {
    return !id.isEmpty()
        && id.getBytes(StandardCharsets.UTF_8).length <= MAX_ID_BYTES
        && id.codePoints().noneMatch(one -> Character.isISOControl(one) || isHalfOfPair(one));
  }

  private static boolean isHalfOfPair(int codePoint) {
    return Character.getType(codePoint) == Character.SURROGATE;
  }
}
