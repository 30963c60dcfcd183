package sentinel.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.time.Instant;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import sentinel.search.v1.Comparison;
import sentinel.search.v1.FieldSchema;
import sentinel.search.v1.FieldValue;
import sentinel.search.v1.Filter;
import sentinel.search.v1.Hit;
import sentinel.search.v1.Item;
import sentinel.search.v1.ItemResult;
import sentinel.search.v1.Query;
import sentinel.search.v1.SearchParams;
import sentinel.search.v1.SearchRequest;

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
    Comparison isNot =
        Comparison.newBuilder()
            .setField("file")
            .setOperator(Comparison.Operator.OPERATOR_NOT_EQUAL)
            .addValues(Fields.of("chelsea.png"))
            .build();
    SearchParams.Builder params =
        SearchParams.newBuilder()
            .setCollection(collection)
            .setQuery(Query.newBuilder().setContent(Contents.text("a cat")))
            .setFilter(Filter.newBuilder().setComparison(isNot));
    try (Hits hits = CLIENT.search(SearchRequest.newBuilder().setParams(params).build())) {
      hits.forEach((Hit hit) -> assertFalse(hit.getId().equals("chelsea.png")));
      assertTrue(hits.summary().orElseThrow().getHitCount() > 0);
    }
  }

  @Test
  void timesAndPlacesComeBackAndSelect() {
    FieldSchema at =
        FieldSchema.newBuilder().setName("at").setType(FieldSchema.Type.TYPE_TIMESTAMP).build();
    FieldSchema place =
        FieldSchema.newBuilder().setName("place").setType(FieldSchema.Type.TYPE_GEO).build();
    String name = collection + "_fields";
    CLIENT.getOrCreateCollection(name, at, place);
    FieldValue noon = Fields.of(Instant.parse("2021-07-03T12:00:00.123456Z"));
    FieldValue munich = Fields.place(48.14, 11.58);
    Item item =
        Live.note(1).toBuilder()
            .clearFields()
            .putFields("at", noon)
            .putFields("place", munich)
            .build();
    CLIENT.upsert(name, List.of(item));
    Comparison notBefore =
        Comparison.newBuilder()
            .setField("at")
            .setOperator(Comparison.Operator.OPERATOR_GREATER_OR_EQUAL)
            .addValues(noon)
            .build();
    SearchParams.Builder params =
        SearchParams.newBuilder()
            .setCollection(name)
            .setQuery(Query.newBuilder().setContent(Contents.text("a note")))
            .setFilter(Filter.newBuilder().setComparison(notBefore));
    try (Hits hits = CLIENT.search(SearchRequest.newBuilder().setParams(params).build())) {
      Hit hit = hits.next();
      assertEquals(noon, hit.getFieldsOrThrow("at"));
      assertEquals(munich, hit.getFieldsOrThrow("place"));
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
