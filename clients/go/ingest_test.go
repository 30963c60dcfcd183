package sentinel_test

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	sentinel "sentinel.internal/go"
	searchv1 "sentinel.internal/go/sentinel/search/v1"
)

// stored ingests items; it returns the ids of those that are durable.
func stored(
	t *testing.T, client *sentinel.Client, collection string, items iter.Seq[*searchv1.Item],
) []string {
	t.Helper()
	var done []string
	for ack, err := range client.Ingest(t.Context(), collection, items) {
		if err != nil {
			t.Fatal(err)
		}
		if ack.Err != nil {
			t.Fatal(ack.Item.Id, ack.Err)
		}
		done = append(done, ack.Item.Id)
	}
	return done
}

func count(t *testing.T, client *sentinel.Client, collection string) int64 {
	t.Helper()
	response, err := client.CollectionService.GetCollection(
		t.Context(), &searchv1.GetCollectionRequest{Name: collection})
	if err != nil {
		t.Fatal(err)
	}
	return response.Collection.ItemCount
}

func TestUpsert(t *testing.T) {
	client := plain(t)
	name := collection(t, client, "upsert")
	for round := range 2 {
		results, err := client.Upsert(t.Context(), name,
			image("cat", photo(t, "chelsea.png")), image("none", []byte("no picture")), text("", "a note"))
		if err != nil {
			t.Fatal(err)
		}
		if results[0].Err != nil || results[2].Err != nil || results[0].Unchanged != (round == 1) {
			t.Errorf("round %d: %+v", round, results)
		}
		if bad := failed(t, results[1].Err); bad.Reason != "IMAGE_FORMAT_UNSUPPORTED" {
			t.Errorf("%+v", bad)
		}
	}
}

func TestIngestAcknowledgesEachItem(t *testing.T) {
	client := plain(t)
	name := collection(t, client, "ingest")
	cat := photo(t, "chelsea.png")
	items := []*searchv1.Item{image("cat", cat), image("bad", []byte("no picture")), text("note", "x")}
	acks := map[string]sentinel.Ack{}
	for ack, err := range client.Ingest(t.Context(), name, slices.Values(items)) {
		if err != nil {
			t.Fatal(err)
		}
		acks[ack.Item.Id] = ack
	}
	hash := sha256.Sum256(cat)
	if len(acks) != 3 || acks["cat"].Err != nil || acks["note"].Err != nil ||
		acks["cat"].Digest != hex.EncodeToString(hash[:]) {
		t.Errorf("%+v", acks)
	}
	if bad := failed(t, acks["bad"].Err); bad.Code != codes.InvalidArgument ||
		bad.Reason != "IMAGE_FORMAT_UNSUPPORTED" {
		t.Errorf("%+v", bad)
	}
}

func TestIngestResumes(t *testing.T) {
	client := plain(t)
	name := collection(t, client, "resume")
	const all = 120
	// Half of the items: a gateway may store all that it gets before the loop has its first answer.
	for ack, err := range client.Ingest(t.Context(), name, numbered(all/2)) {
		if err != nil || ack.Err != nil {
			t.Fatal(err, ack.Err)
		}
		break // the program ends here
	}
	known := make([]string, all)
	for i := range known {
		known[i] = fmt.Sprint(i)
	}
	var digests map[string]string
	// A batch that was sent and not acknowledged may be stored yet.
	last := -1
	eventually(t, "nothing more is stored", func() bool {
		var err error
		if digests, err = client.Digests(t.Context(), name, known); err != nil {
			t.Fatal(err)
		}
		settled := len(digests) == last
		last = len(digests)
		return settled
	})
	if len(digests) == 0 || len(digests) > all/2 {
		t.Fatalf("%d are stored after the first run", len(digests))
	}
	missing := func(yield func(*searchv1.Item) bool) {
		for item := range numbered(all) {
			if _, found := digests[item.Id]; !found && !yield(item) {
				return
			}
		}
	}
	second := stored(t, client, name, missing)
	if len(second) != all-len(digests) || count(t, client, name) != all {
		t.Errorf("%d, then %d; stored: %d", len(digests), len(second), count(t, client, name))
	}
}

func TestIngestGoesOnAfterALostConnection(t *testing.T) {
	link := newLink(t, variable(t, "ADDRESS"))
	client := connect(t, link.address, sentinel.Options{})
	name := collection(t, client, "lost")
	const all = 200
	seen := map[string]int{}
	for ack, err := range client.Ingest(t.Context(), name, numbered(all)) {
		if err != nil || ack.Err != nil {
			t.Fatal(err, ack.Err)
		}
		if seen[ack.Item.Id]++; len(seen) == 1 || len(seen) == 50 {
			link.cut()
		}
	}
	if len(seen) != all || count(t, client, name) != all {
		t.Errorf("%d acknowledged, %d stored of %d", len(seen), count(t, client, name), all)
	}
	for id, times := range seen {
		if times != 1 {
			t.Errorf("%s was acknowledged %d times", id, times)
		}
	}
}

func TestIngestEndsWithItsError(t *testing.T) {
	client := plain(t)
	var last error
	for _, err := range client.Ingest(t.Context(), "go_missing", numbered(3)) {
		last = err
	}
	if failed(t, last).Reason != "COLLECTION_NOT_FOUND" {
		t.Error(last)
	}
}

func TestIngestOfNothing(t *testing.T) {
	for ack, err := range plain(t).Ingest(t.Context(), "go_missing", numbered(0)) {
		t.Error(ack, err)
	}
}

func TestIngestRefusesAnItemThatNoMessageHolds(t *testing.T) {
	client := plain(t)
	name := collection(t, client, "large")
	items := []*searchv1.Item{text("a", "a"), image("huge", make([]byte, 64<<20)), text("b", "b")}
	failures := map[string]error{}
	for ack, err := range client.Ingest(t.Context(), name, slices.Values(items)) {
		if err != nil {
			t.Fatal(err)
		}
		failures[ack.Item.Id] = ack.Err
	}
	if len(failures) != 3 || failures["a"] != nil || failures["b"] != nil ||
		failed(t, failures["huge"]).Reason != "BATCH_TOO_LARGE" {
		t.Error(failures)
	}
}

func TestIngestEndsWhenNothingIsAcknowledged(t *testing.T) {
	hasty := connect(t, variable(t, "ADDRESS"), sentinel.Options{
		Timeouts: sentinel.Timeouts{Upsert: time.Microsecond},
	})
	name := collection(t, hasty, "unacknowledged")
	var last error
	for _, err := range hasty.Ingest(t.Context(), name, numbered(3)) {
		last = err
	}
	var late *sentinel.Error
	if !errors.As(last, &late) || late.Reason != sentinel.ReasonOutOfTime {
		t.Error(last)
	}
}
