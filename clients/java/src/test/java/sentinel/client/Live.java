package sentinel.client;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.stream.Stream;
import sentinel.search.v1.FieldSchema;
import sentinel.search.v1.GetItemsRequest;
import sentinel.search.v1.Item;
import sentinel.search.v1.ItemServiceGrpc;

/** The gateways and photos that the tests use; tests/clients/live.py runs them. */
final class Live {
  static final String ADDRESS = variable("SENTINEL_TEST_ADDRESS");
  static final Path PHOTOS = Path.of(variable("SENTINEL_TEST_PHOTOS"));

  private Live() {}

  static String variable(String name) {
    String value = System.getenv(name);
    if (value == null) {
      throw new IllegalStateException(name + " is not set; run: make test-clients");
    }
    return value;
  }

  /** The two gateways that share one Milvus. */
  static String[] addresses() {
    return variable("SENTINEL_TEST_ADDRESSES").split(",");
  }

  /** Creates a collection whose items have the field {@code file}. */
  static String collection(SentinelClient client, String name) {
    FieldSchema file =
        FieldSchema.newBuilder().setName("file").setType(FieldSchema.Type.TYPE_STRING).build();
    return client.getOrCreateCollection("java_" + name, file).getName();
  }

  /** All photos; the id is the file's name. */
  static List<Item> photos() throws IOException {
    List<Item> items = new ArrayList<>();
    try (Stream<Path> files = Files.list(PHOTOS)) {
      for (Path file : files.sorted().toList()) {
        String name = file.getFileName().toString();
        items.add(
            Item.newBuilder()
                .setId(name)
                .setContent(Contents.image(file))
                .putFields("file", Fields.of(name))
                .build());
      }
    }
    return items;
  }

  /** An item that no gateway can store. */
  static Item brokenItem() {
    byte[] noImage = {1, 2, 3};
    return Item.newBuilder().setId("broken").setContent(Contents.image(noImage)).build();
  }

  /** A text; different numbers make different items. */
  static Item note(int number) {
    return Item.newBuilder()
        .setId("note " + number)
        .setContent(Contents.text("note number " + number))
        .build();
  }

  /** Asks a gateway which of these ids it does not have. */
  static List<String> missing(SentinelClient client, String collection, List<String> ids) {
    List<String> missing = new ArrayList<>();
    for (int start = 0; start < ids.size(); start += 1000) {
      GetItemsRequest request =
          GetItemsRequest.newBuilder()
              .setCollection(collection)
              .addAllIds(ids.subList(start, Math.min(ids.size(), start + 1000)))
              .build();
      missing.addAll(
          ItemServiceGrpc.newBlockingStub(client.channel()).getItems(request).getMissingIdsList());
    }
    return missing;
  }
}
