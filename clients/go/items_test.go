package sentinel_test

import (
	"maps"
	"slices"
	"strings"
	"testing"

	sentinel "sentinel.internal/go"
	searchv1 "sentinel.internal/go/sentinel/search/v1"
)

// A response ends at 3.5 MiB. These items come to 3.7 MiB.
func TestDigestsOfMoreThanOneResponseHolds(t *testing.T) {
	client := plain(t)
	name := collection(t, client, "digests")
	const all = 130
	known := make([]string, 0, all)
	long := &searchv1.FieldValue{
		Kind: &searchv1.FieldValue_StringValue{StringValue: strings.Repeat("x", 30_000)},
	}
	items := func(yield func(*searchv1.Item) bool) {
		for item := range numbered(all) {
			item.Fields = map[string]*searchv1.FieldValue{"place": long}
			known = append(known, item.Id)
			if !yield(item) {
				return
			}
		}
	}
	if done := stored(t, client, name, items); len(done) != all {
		t.Fatalf("%d are stored", len(done))
	}
	first, err := client.ItemService.GetItems(t.Context(), &searchv1.GetItemsRequest{
		Collection: name, Ids: known,
	})
	if err != nil || len(first.UnreadIds) == 0 {
		t.Fatal("one response holds all items: ", err)
	}
	digests, err := client.Digests(t.Context(), name, known)
	if err != nil || len(digests) != all {
		t.Errorf("%d digests of %d items: %v", len(digests), all, err)
	}
}

func TestDigestsLeavesOutIdsThatNoItemHas(t *testing.T) {
	client := plain(t)
	name := collection(t, client, "ids")
	// 256 bytes are allowed. A letter with an accent has two of them.
	longest, tooLong := strings.Repeat("é", 128), strings.Repeat("é", 128)+"x"
	items := []*searchv1.Item{
		text("a", "one"), text(tooLong, "two"), text("line\nbreak", "three"), text(longest, "four"),
		text("not UTF-8: \xff", "five"),
	}
	refused := map[string]string{}
	for ack, err := range client.Ingest(t.Context(), name, slices.Values(items)) {
		if err != nil {
			t.Fatal(err)
		}
		if ack.Err != nil {
			refused[ack.Item.Id] = failed(t, ack.Err).Reason
		}
	}
	if !maps.Equal(refused, map[string]string{
		tooLong: "NAME_INVALID", "line\nbreak": "NAME_INVALID",
		"not UTF-8: \xff": sentinel.ReasonNotUnicode,
	}) {
		t.Errorf("refused: %q", refused)
	}
	wrong := []string{"", tooLong, "line\nbreak", "\u0085", "not UTF-8: \xff"}
	digests, err := client.Digests(t.Context(), name, append(wrong, "a", longest))
	if err != nil || len(digests) != 2 || digests["a"] == "" || digests[longest] == "" {
		t.Errorf("%v: %v", digests, err)
	}
	if digests, err := client.Digests(t.Context(), name, wrong); err != nil || len(digests) != 0 {
		t.Errorf("%v: %v", digests, err)
	}
}
