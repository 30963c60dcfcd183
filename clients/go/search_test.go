package sentinel_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	sentinel "sentinel.internal/go"
	searchv1 "sentinel.internal/go/sentinel/search/v1"
)

// filled creates a collection of three photos and a text.
func filled(t *testing.T, client *sentinel.Client, name string) string {
	t.Helper()
	name = collection(t, client, name)
	results, err := client.Upsert(t.Context(), name,
		image("cat", photo(t, "chelsea.png")),
		image("coffee", photo(t, "coffee.png")),
		image("rocket", photo(t, "rocket.jpg")),
		text("note", "the harvest of 1911 in a small village"),
	)
	if err != nil {
		t.Fatal(err)
	}
	for _, one := range results {
		if one.Err != nil {
			t.Fatal(one.ID, one.Err)
		}
	}
	return name
}

func TestSearchByText(t *testing.T) {
	client := plain(t)
	found, err := ids(t.Context(), client, request(filled(t, client, "text"), sentinel.Text("a cat")))
	if err != nil {
		t.Fatal(err)
	}
	if len(found) != 4 || slices.Index(found, "cat") > slices.Index(found, "rocket") {
		t.Errorf("the cat is not before the rocket in %v", found)
	}
}

func TestSearchByImage(t *testing.T) {
	client := plain(t)
	query := sentinel.Image(photo(t, "coffee.png"))
	found, err := ids(t.Context(), client, request(filled(t, client, "image"), query))
	if err != nil {
		t.Fatal(err)
	}
	if len(found) != 4 || found[0] != "coffee" {
		t.Errorf("a picture is not the most like itself: %v", found)
	}
}

func TestLeavingTheLoopEndsTheSearch(t *testing.T) {
	client := plain(t)
	asked := request(filled(t, client, "leaving"), sentinel.Text("a cat"))
	asked.ChunkSize = new(int32)
	*asked.ChunkSize = 1
	count := 0
	for hit, err := range client.Search(t.Context(), asked) {
		if err != nil || int(hit.Rank) != count+1 {
			t.Fatal(hit, err)
		}
		if count++; count == 2 {
			break
		}
	}
	if count != 2 {
		t.Errorf("%d hits", count)
	}
}

func TestErrorHasReasonFieldAndRequestID(t *testing.T) {
	client := plain(t)
	_, err := ids(t.Context(), client, request("go_missing", sentinel.Text("a cat")))
	missing := failed(t, err)
	if missing.Code != codes.NotFound || missing.Reason != "COLLECTION_NOT_FOUND" ||
		missing.Metadata["collection"] != "go_missing" || missing.RequestID == "" {
		t.Errorf("%+v", missing)
	}
	if status.Code(err) != codes.NotFound || missing.Retryable() {
		t.Error("not a status of gRPC")
	}
	_, err = ids(t.Context(), client, request(collection(t, client, "errors"), sentinel.Text(" ")))
	empty := failed(t, err)
	if empty.Reason != "TEXT_EMPTY" || empty.Field != "params.query.content.text" {
		t.Errorf("%+v", empty)
	}
}

func TestErrorOfAGeneratedStub(t *testing.T) {
	_, err := plain(t).CollectionService.GetCollection(
		t.Context(), &searchv1.GetCollectionRequest{Name: "go_missing"})
	if failed(t, err).Reason != "COLLECTION_NOT_FOUND" {
		t.Error(err)
	}
}

func TestDefaultDeadline(t *testing.T) {
	hasty := connect(t, variable(t, "ADDRESS"), sentinel.Options{
		Timeouts: sentinel.Timeouts{Search: time.Microsecond},
	})
	asked := request(filled(t, hasty, "deadline"), sentinel.Text("a cat"))
	_, err := ids(t.Context(), hasty, asked)
	late := failed(t, err)
	if late.Code != codes.DeadlineExceeded || late.Reason != sentinel.ReasonOutOfTime ||
		!errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%+v", late)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := ids(ctx, hasty, asked); err != nil {
		t.Errorf("the deadline of the context does not count: %v", err)
	}
}

func TestConnectIsRepeated(t *testing.T) {
	for _, byLoad := range []bool{false, true} {
		link := newLink(t, variable(t, "ADDRESS"))
		link.toRefuse.Store(2)
		client := connect(t, link.address, sentinel.Options{BalanceByLoad: byLoad})
		response, err := client.AccessService.GetCaller(t.Context(), &searchv1.GetCallerRequest{})
		if err != nil || response == nil {
			t.Fatal(byLoad, err)
		}
		if link.refused.Load() != 2 {
			t.Errorf("%t: %d connections were refused", byLoad, link.refused.Load())
		}
	}
}

func TestNoGatewayAnswers(t *testing.T) {
	client := connect(t, "127.0.0.1:1", sentinel.Options{})
	_, err := ids(t.Context(), client, request("any", sentinel.Text("a cat")))
	if away := failed(t, err); away.Reason != sentinel.ReasonUnreachable || !away.Retryable() {
		t.Errorf("%+v", away)
	}
}
