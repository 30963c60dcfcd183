package sentinel.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;

import com.google.protobuf.ByteString;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.Test;
import sentinel.common.v1.Content;
import sentinel.common.v1.ElementType;
import sentinel.common.v1.Vector;
import sentinel.search.v1.Item;

/** Which ids are asked for, and which items are passed on. */
class UnstoredTest {
  private static final byte[] IMAGE = {1, 2, 3};
  private final List<List<String>> questions = new ArrayList<>();

  private static Item item(String id, Content content) {
    return Item.newBuilder().setId(id).setContent(content).build();
  }

  private static Item note(String id) {
    return item(id, Contents.text("a note"));
  }

  /** Filters items; no id is missing but those. */
  private List<Item> unstored(List<Item> items, String... missing) {
    List<Item> found = new ArrayList<>();
    new Unstored(
            items.iterator(),
            ids -> {
              questions.add(ids);
              return ids.stream().filter(List.of(missing)::contains).toList();
            })
        .forEachRemaining(found::add);
    return found;
  }

  @Test
  void leavesOutWhatIsStored() {
    assertEquals(List.of(note("b")), unstored(List.of(note("a"), note("b"), note("c")), "b"));
    assertEquals(List.of(List.of("a", "b", "c")), questions);
  }

  @Test
  void anItemWithBytesGetsTheIdOfTheBytes() {
    Content text = Contents.text("a note");
    Content image = Contents.image(IMAGE);
    String textId = Contents.id(text);
    String imageId = Contents.id(image);
    List<Item> items = List.of(item("", text), item("", image), item("", text));
    assertEquals(List.of(item(imageId, image)), unstored(items, imageId));
    assertEquals(List.of(List.of(textId, imageId)), questions);
  }

  @Test
  void itemsWithoutAnIdAndWithoutBytesArePassedOnAsTheyAre() {
    Vector vector =
        Vector.newBuilder()
            .setData(ByteString.copyFrom(new byte[8]))
            .setElementType(ElementType.ELEMENT_TYPE_FLOAT32)
            .setDimensions(2)
            .build();
    List<Item> items =
        List.of(
            item("", Contents.imageAt("https://photos.example/1.jpg")),
            item("", Contents.imageAt("https://photos.example/2.jpg")),
            item("", Contents.text("")),
            Item.newBuilder().setVector(vector).build());
    assertEquals(items, unstored(items));
    assertEquals(List.of(), questions);
  }

  @Test
  void anItemWithAnIdIsAskedForWhateverItsContent() {
    Item item = item("a", Contents.imageAt("https://photos.example/1.jpg"));
    assertEquals(List.of(), unstored(List.of(item)));
    assertEquals(List.of(List.of("a")), questions);
  }

  @Test
  void idsThatBreakTheRulesAreNotAskedFor() {
    List<Item> wrong =
        List.of(
            note("a".repeat(257)),
            note("é".repeat(129)),
            note("a\nb"),
            note("a\u007f"),
            note("a\u0085"),
            note("a\ud800"));
    List<Item> items = new ArrayList<>(wrong);
    items.add(note("é".repeat(128)));
    items.add(note("🐈"));
    assertEquals(wrong, unstored(items));
    assertEquals(List.of(List.of("é".repeat(128), "🐈")), questions);
  }

  @Test
  void contentWithoutBytesHasNoId() {
    Content content = Contents.imageAt("https://photos.example/1.jpg");
    assertThrows(IllegalArgumentException.class, () -> Contents.id(content));
  }
}
