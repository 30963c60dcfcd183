package sentinel.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.util.ArrayList;
import java.util.Iterator;
import java.util.List;
import java.util.stream.IntStream;
import java.util.stream.Stream;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.Test;
import sentinel.search.v1.Item;

class IngestTest {
  private static final SentinelClient CLIENT = SentinelClient.connect(Live.ADDRESS);

  @AfterAll
  static void close() {
    CLIENT.close();
  }

  private static List<IngestResult> all(Ingest ingest) {
    List<IngestResult> results = new ArrayList<>();
    ingest.forEachRemaining(results::add);
    return results;
  }

  private static Iterator<Item> notes(int count) {
    return IntStream.range(0, count).mapToObj(Live::note).iterator();
  }

  private static List<String> ids(int count) {
    return IntStream.range(0, count).mapToObj(one -> Live.note(one).getId()).toList();
  }

  @Test
  void yieldsOneResultForEachItem() throws IOException {
    String collection = Live.collection(CLIENT, "ingest");
    List<Item> items = new ArrayList<>(Live.photos());
    items.add(1, Live.brokenItem());
    List<IngestResult> results = all(CLIENT.ingest(collection, items.iterator()));
    assertEquals(items, results.stream().map(IngestResult::item).toList());
    for (IngestResult result : results) {
      if (result.item().getId().equals("broken")) {
        assertEquals("IMAGE_FORMAT_UNSUPPORTED", result.error().reason());
      } else {
        assertTrue(result.isStored());
        assertEquals(Contents.id(result.item().getContent()), result.digest());
      }
    }
  }

  @Test
  void anIngestOfNothingHasNoResult() {
    assertFalse(CLIENT.ingest("java_none", List.<Item>of().iterator()).hasNext());
  }

  @Test
  void anIngestIntoNoCollectionFails() {
    Ingest ingest = CLIENT.ingest("java_none", notes(1));
    assertEquals(
        "COLLECTION_NOT_FOUND",
        assertThrows(SentinelException.class, ingest::hasNext).reason());
  }

  @Test
  void anIngestThatWasStoppedContinues() {
    String collection = Live.collection(CLIENT, "resume");
    int stored = 0;
    try (Ingest ingest = CLIENT.ingest(collection, notes(300))) {
      while (stored < 100) {
        assertTrue(ingest.next().isStored());
        stored++;
      }
    }
    Iterator<Item> unstored = CLIENT.unstored(collection, notes(300));
    List<IngestResult> rest = all(CLIENT.ingest(collection, unstored));
    assertTrue(rest.size() <= 300 - stored, "sent again: " + rest.size());
    assertEquals(List.of(), Live.missing(CLIENT, collection, ids(300)));
    assertFalse(CLIENT.unstored(collection, notes(300)).hasNext());
  }

  @Test
  void anIdThatBreaksTheRulesFailsAlone() {
    String collection = Live.collection(CLIENT, "ids");
    Item note = Live.note(1);
    Item tooLong = note.toBuilder().setId("a".repeat(257)).build();
    Item control = note.toBuilder().setId("a\nb").build();
    List<Item> items = List.of(tooLong, note, control);
    Iterator<Item> unstored = CLIENT.unstored(collection, items.iterator());
    List<IngestResult> results = all(CLIENT.ingest(collection, unstored));
    assertEquals(items, results.stream().map(IngestResult::item).toList());
    assertEquals("NAME_INVALID", results.get(0).error().reason());
    assertTrue(results.get(1).isStored());
    assertEquals("NAME_INVALID", results.get(2).error().reason());
  }

  @Test
  void anIngestGoesOnAfterALostConnection() throws IOException {
    String collection = Live.collection(CLIENT, "lost");
    try (Link link = new Link(Live.ADDRESS);
        SentinelClient client = SentinelClient.connect(link.address())) {
      Stream<Item> items =
          IntStream.range(0, 300)
              .mapToObj(Live::note)
              .peek(item -> link.cutOnce(item.getId().equals("note 200")));
      List<IngestResult> results = all(client.ingest(collection, items.iterator()));
      assertEquals(1, link.cuts());
      assertEquals(300, results.stream().map(one -> one.item().getId()).distinct().count());
      assertTrue(results.stream().allMatch(IngestResult::isStored));
    }
    assertEquals(List.of(), Live.missing(CLIENT, collection, ids(300)));
  }

  @Test
  void whatReadingTheItemsThrowsComesAfterTheirResults() {
    String collection = Live.collection(CLIENT, "throws");
    Stream<Item> items =
        IntStream.range(0, 100)
            .mapToObj(Live::note)
            .peek(
                item -> {
                  if (item.getId().equals("note 50")) {
                    throw new IllegalStateException("the disk is broken");
                  }
                });
    Ingest ingest = CLIENT.ingest(collection, items.iterator());
    for (int i = 0; i < 50; i++) {
      assertTrue(ingest.next().isStored());
    }
    assertThrows(IllegalStateException.class, ingest::hasNext);
  }
}
