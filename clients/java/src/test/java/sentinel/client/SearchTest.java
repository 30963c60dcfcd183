package sentinel.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.time.Duration;
import java.time.Instant;
import java.time.temporal.ChronoUnit;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import sentinel.search.v1.FieldSchema;
import sentinel.search.v1.FieldValue;
import sentinel.search.v1.Filter;
import sentinel.search.v1.Hit;
import sentinel.search.v1.Item;
import sentinel.search.v1.ItemResult;
import sentinel.search.v1.MatchLevel;
import sentinel.search.v1.Notice;
import sentinel.search.v1.Query;
import sentinel.search.v1.SearchParams;
import sentinel.search.v1.SearchRequest;
import sentinel.search.v1.SearchSummary;

class SearchTest {
  private static final SentinelClient CLIENT = SentinelClient.connect(Live.ADDRESS);
  private static String collection;

  @BeforeAll
  static void store() throws IOException {
    collection = Live.collection(CLIENT, "search");
    for (ItemResult result : CLIENT.upsert(collection, Live.photos())) {
      assertEquals(ItemResult.Outcome.OUTCOME_STORED, result.getOutcome(), result.getId());
    }
  }

  @AfterAll
  static void close() {
    CLIENT.close();
  }

  @Test
  void searchesByText() {
    List<String> found = new ArrayList<>();
    try (Hits hits = CLIENT.search(collection, Contents.text("a cat"), 3)) {
      for (Hit hit : hits) {
        assertEquals(found.size() + 1, hit.getRank());
        assertEquals(hit.getId(), hit.getFieldsOrThrow("file").getStringValue());
        found.add(hit.getId());
      }
      assertEquals(3, hits.summary().orElseThrow().getHitCount());
    }
    assertEquals("chelsea.png", found.get(0));
  }

  @Test
  void searchesByImage() throws IOException {
    try (Hits hits =
        CLIENT.search(collection, Contents.image(Live.PHOTOS.resolve("chelsea.png")), 2)) {
      Hit best = hits.next();
      assertEquals("chelsea.png", best.getId());
      assertEquals(1, best.getScore(), 0.001);
      assertTrue(hits.next().getScore() < best.getScore());
      assertFalse(hits.hasNext());
    }
  }

  @Test
  void searchesWithAllThatARequestCanSay() {
    SearchParams.Builder params =
        SearchParams.newBuilder()
            .setCollection(collection)
            .setQuery(Query.newBuilder().setContent(Contents.text("a cat ".repeat(200))))
            .setFilter(Filters.notEqual("file", Fields.of("chelsea.png")));
    try (Hits hits = CLIENT.search(SearchRequest.newBuilder().setParams(params).build())) {
      hits.forEach((Hit hit) -> assertFalse(hit.getId().equals("chelsea.png")));
      SearchSummary summary = hits.summary().orElseThrow();
      assertTrue(summary.getHitCount() > 0);
      assertEquals(Notice.Kind.KIND_TEXT_TRUNCATED, summary.getNotices(0).getKind());
    }
  }

  @Test
  void aHitTellsHowGoodItIs() throws InterruptedException {
    MatchLevel level = MatchLevel.MATCH_LEVEL_UNSPECIFIED;
    long end = System.nanoTime() + Duration.ofMinutes(3).toNanos();
    // The gateway finds the levels in the background.
    while (level == MatchLevel.MATCH_LEVEL_UNSPECIFIED && System.nanoTime() < end) {
      Thread.sleep(20);
      try (Hits hits = CLIENT.search(collection, Contents.text("a cup of coffee"), 1)) {
        level = hits.next().getMatchLevel();
      }
    }
    assertEquals(MatchLevel.MATCH_LEVEL_STRONG, level);
  }

  /** Creates a collection with one item, which has a field of each of some types. */
  private static String typed(String name, Map<String, FieldValue> values) {
    FieldSchema[] fields =
        values.keySet().stream()
            .map(type -> FieldSchema.newBuilder().setName(type).setTypeValue(typeOf(type)).build())
            .toArray(FieldSchema[]::new);
    String typed = CLIENT.getOrCreateCollection(collection + name, fields).getName();
    Item item = Live.note(1).toBuilder().putAllFields(values).build();
    ItemResult result = CLIENT.upsert(typed, List.of(item)).get(0);
    assertEquals("", result.getError().getMessage());
    return typed;
  }

  private static int typeOf(String name) {
    return FieldSchema.Type.valueOf("TYPE_" + name).getNumber();
  }

  private static final Instant NOON = Instant.parse("2021-07-03T12:00:00.123456Z");
  private static final Map<String, FieldValue> VALUES =
      Map.of(
          "STRING", Fields.of("/photos/2021/a.jpg"),
          "INT64", Fields.of(1L << 60),
          "DOUBLE", Fields.of(0.5),
          "BOOL", Fields.of(false),
          "STRING_LIST", Fields.of(List.of("a", "")),
          "TIMESTAMP", Fields.of(NOON),
          "GEO", Fields.place(48.14, 11.58));

  @Test
  void valuesOfAllTypesComeBackAsTheyWereStored() {
    String typed = typed("_types", VALUES);
    try (Hits hits = CLIENT.search(typed, Contents.text("a note"), 1)) {
      assertEquals(VALUES, hits.next().getFieldsMap());
    }
  }

  @Test
  void filtersCompareTimesPlacesAndPartsOfTexts() {
    String typed = typed("_filters", VALUES);
    FieldValue noon = Fields.of(NOON);
    FieldValue later = Fields.of(NOON.plus(1, ChronoUnit.MICROS));
    List<Filter> matching =
        List.of(
            Filters.equal("BOOL", Fields.of(false)),
            Filters.notEqual("STRING", Fields.of("b")),
            Filters.less("TIMESTAMP", later),
            Filters.atMost("TIMESTAMP", noon),
            Filters.greater("DOUBLE", Fields.of(0.4)),
            Filters.atLeast("TIMESTAMP", noon),
            Filters.in("INT64", Fields.of(3), Fields.of(1L << 60)),
            Filters.notIn("INT64", Fields.of(3), Fields.of(4)),
            Filters.startsWith("STRING", "/photos"),
            Filters.contains("STRING", "2021"),
            Filters.contains("STRING_LIST", "a"),
            Filters.exists("GEO"),
            Filters.near("GEO", 48.14, 11.58, 1000),
            Filters.within("GEO", 48, 11, 49, 12),
            Filters.anyOf(Filters.exists("GEO"), Filters.equal("BOOL", Fields.of(true))));
    for (Filter one : matching) {
      assertTrue(isFound(typed, one), one::toString);
      assertFalse(isFound(typed, Filters.noneOf(one)), one::toString);
    }
    List<Filter> others =
        List.of(
            Filters.atLeast("TIMESTAMP", later),
            Filters.contains("STRING", "2022"),
            Filters.near("GEO", 48, 11.58, 1000),
            Filters.within("GEO", 40, 11, 41, 12),
            Filters.allOf(Filters.exists("GEO"), Filters.less("TIMESTAMP", noon)));
    for (Filter one : others) {
      assertFalse(isFound(typed, one), one::toString);
    }
  }

  private static boolean isFound(String collection, Filter filter) {
    try (Hits hits = CLIENT.search(collection, Contents.text("a note"), filter, 1)) {
      return hits.hasNext();
    }
  }

  @Test
  void aSearchThatIsClosedEarlyEnds() {
    SearchParams.Builder params =
        SearchParams.newBuilder()
            .setCollection(collection)
            .setQuery(Query.newBuilder().setContent(Contents.text("a cat")));
    Hits hits =
        CLIENT.search(SearchRequest.newBuilder().setParams(params).setChunkSize(1).build());
    assertEquals("chelsea.png", hits.next().getId());
    hits.close();
    SentinelException error =
        assertThrows(SentinelException.class, () -> hits.forEach((Hit hit) -> {}));
    assertEquals(io.grpc.Status.Code.CANCELLED, error.code());
  }

  @Test
  void upsertReportsEachItem() {
    Item good = Live.note(1);
    List<ItemResult> results = CLIENT.upsert(collection, List.of(Live.brokenItem(), good));
    assertEquals(2, results.size());
    SentinelException error = SentinelException.of(results.get(0).getError());
    assertEquals("IMAGE_FORMAT_UNSUPPORTED", error.reason());
    assertEquals(ItemResult.Outcome.OUTCOME_STORED, results.get(1).getOutcome());
    ItemResult again = CLIENT.upsert(collection, List.of(good)).get(0);
    assertEquals(ItemResult.Outcome.OUTCOME_UNCHANGED, again.getOutcome());
  }
}
