import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayDeque;
import java.util.Deque;
import java.util.Iterator;
import java.util.NoSuchElementException;
import java.util.stream.Stream;
import sentinel.client.ClientBuilder;
import sentinel.client.Contents;
import sentinel.client.Fields;
import sentinel.client.Hits;
import sentinel.client.Ingest;
import sentinel.client.IngestResult;
import sentinel.client.SentinelClient;
import sentinel.client.SentinelException;
import sentinel.common.v1.Content;
import sentinel.search.v1.FieldSchema;
import sentinel.search.v1.Hit;
import sentinel.search.v1.Item;

/**
 * Stores the pictures of a folder, and searches them:
 *
 * <pre>
 *   PhotoFolder ingest FOLDER
 *   PhotoFolder search "a cup of coffee"
 *   PhotoFolder search PICTURE
 * </pre>
 *
 * <p>Run {@code ingest} again after it was stopped: it sends only what is not stored yet.
 *
 * <p>Environment: SENTINEL_ADDRESS (several: {@code a:50050,b:50050}), SENTINEL_TLS_CA,
 * SENTINEL_API_KEY.
 */
public final class PhotoFolder {
  private static final String COLLECTION = "java_photos";
  private static final String PICTURES = ".*\\.(jpe?g|png|webp|gif|bmp|tiff?)";

  private PhotoFolder() {}

  public static void main(String[] arguments) {
    if (arguments.length != 2 || !arguments[0].matches("ingest|search")) {
      System.err.println("usage: PhotoFolder ingest FOLDER | search TEXT | search PICTURE");
      System.exit(2);
    }
    boolean isGood = false;
    try (SentinelClient client = connect()) {
      isGood =
          arguments[0].equals("ingest")
              ? ingest(client, Path.of(arguments[1]))
              : search(client, arguments[1]);
    } catch (SentinelException error) {
      System.err.println(error.getMessage());
    } catch (IOException error) {
      System.err.println("cannot be read: " + error.getMessage());
    }
    System.exit(isGood ? 0 : 1);
  }

  private static SentinelClient connect() throws IOException {
    String addresses = System.getenv().getOrDefault("SENTINEL_ADDRESS", "127.0.0.1:50050");
    String ca = System.getenv("SENTINEL_TLS_CA");
    String key = System.getenv("SENTINEL_API_KEY");
    ClientBuilder builder = SentinelClient.builder(addresses.split(","));
    if (ca != null) {
      builder.tls(Path.of(ca));
    }
    if (key != null) {
      builder.apiKey(key);
    }
    return builder.build();
  }

  private static boolean ingest(SentinelClient client, Path folder) throws IOException {
    client.getOrCreateCollection(
        COLLECTION,
        FieldSchema.newBuilder().setName("file").setType(FieldSchema.Type.TYPE_STRING).build());
    int stored = 0;
    int failed = 0;
    Photos photos = new Photos(folder);
    // Asks which pictures are stored, by the SHA-256 of their bytes, and sends the others.
    Iterator<Item> missing = client.unstored(COLLECTION, photos);
    try (Ingest results = client.ingest(COLLECTION, missing)) {
      while (results.hasNext()) {
        IngestResult result = results.next();
        if (result.isStored()) {
          stored++;
        } else {
          failed++;
          String file = result.item().getFieldsOrThrow("file").getStringValue();
          System.err.println(file + ": " + result.error().getMessage());
        }
      }
    }
    int unreadable = photos.unreadable;
    int skipped = photos.read - stored - failed;
    System.out.printf(
        "%d stored, %d already there, %d failed%n", stored, skipped, failed + unreadable);
    return failed + unreadable == 0;
  }

  private static boolean search(SentinelClient client, String query) throws IOException {
    boolean isPicture = query.toLowerCase().matches(PICTURES) && Files.exists(Path.of(query));
    Content content = isPicture ? Contents.image(Path.of(query)) : Contents.text(query);
    try (Hits hits = client.search(COLLECTION, content, 5)) {
      for (Hit hit : hits) {
        String file = hit.getFieldsOrThrow("file").getStringValue();
        System.out.printf("%2d  %.3f  %s%n", hit.getRank(), hit.getScore(), file);
      }
    }
    return true;
  }

  /** The pictures of a folder and of those within, read one by one. */
  private static final class Photos implements Iterator<Item> {
    private final Deque<Path> files = new ArrayDeque<>();
    private Item next;
    int read;
    int unreadable;

    Photos(Path folder) throws IOException {
      try (Stream<Path> found = Files.walk(folder)) {
        found
            .filter(file -> file.toString().toLowerCase().matches(PICTURES))
            .sorted()
            .forEach(files::add);
      }
    }

    @Override
    public boolean hasNext() {
      while (next == null && !files.isEmpty()) {
        Path file = files.remove();
        try {
          next =
              Item.newBuilder()
                  .setContent(Contents.image(file))
                  .putFields("file", Fields.of(file.toString()))
                  .build();
          read++;
        } catch (IOException error) {
          unreadable++;
          System.err.println(file + ": cannot be read: " + error.getMessage());
        }
      }
      return next != null;
    }

    @Override
    public Item next() {
      if (!hasNext()) {
        throw new NoSuchElementException("no more pictures");
      }
      Item item = next;
      next = null;
      return item;
    }
  }
}
