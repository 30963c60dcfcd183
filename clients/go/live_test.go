package sentinel_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	sentinel "sentinel.internal/go"
	searchv1 "sentinel.internal/go/sentinel/search/v1"
)

const patience = 3 * time.Minute

// variable returns what tests/clients of the repository sets.
func variable(t *testing.T, name string) string {
	t.Helper()
	value := os.Getenv("SENTINEL_TEST_" + name)
	if value == "" {
		t.Skipf("SENTINEL_TEST_%s is not set: run `make test-clients`", name)
	}
	return value
}

func connect(t *testing.T, addresses string, options sentinel.Options) *sentinel.Client {
	t.Helper()
	client, err := sentinel.New(addresses, options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

func plain(t *testing.T) *sentinel.Client {
	t.Helper()
	return connect(t, variable(t, "ADDRESS"), sentinel.Options{})
}

// collection creates one with the name of the test.
func collection(t *testing.T, client *sentinel.Client, name string) string {
	t.Helper()
	name = "go_" + name
	_, err := client.CollectionService.CreateCollection(
		t.Context(), &searchv1.CreateCollectionRequest{Collection: &searchv1.Collection{
			Name:   name,
			Fields: []*searchv1.FieldSchema{{Name: "place", Type: searchv1.FieldSchema_TYPE_STRING}},
		}},
	)
	if err != nil {
		t.Fatal(err)
	}
	return name
}

func photo(t *testing.T, name string) []byte {
	t.Helper()
	file, err := os.ReadFile(filepath.Join(variable(t, "PHOTOS"), name))
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// photos returns an item for each photo of the tests; the id is the file's name.
func photos(t *testing.T) []*searchv1.Item {
	t.Helper()
	files, err := os.ReadDir(variable(t, "PHOTOS"))
	if err != nil {
		t.Fatal(err)
	}
	var items []*searchv1.Item
	for _, file := range files {
		items = append(items, image(file.Name(), photo(t, file.Name())))
	}
	return items
}

func text(id, text string) *searchv1.Item {
	return &searchv1.Item{Id: id, Content: sentinel.TextContent(text)}
}

func image(id string, file []byte) *searchv1.Item {
	return &searchv1.Item{Id: id, Content: sentinel.ImageContent(file)}
}

// numbered yields texts with the ids 0 to count-1.
func numbered(count int) iter.Seq[*searchv1.Item] {
	return func(yield func(*searchv1.Item) bool) {
		for i := range count {
			if !yield(text(fmt.Sprint(i), fmt.Sprintf("note number %d", i))) {
				return
			}
		}
	}
}

func request(collection string, query *searchv1.Query) *searchv1.SearchRequest {
	return &searchv1.SearchRequest{
		Params: &searchv1.SearchParams{
			Collection: collection, Query: query,
			Consistency: searchv1.Consistency_CONSISTENCY_STRONG,
		},
	}
}

// ids returns the ids of all hits.
func ids(
	ctx context.Context, client *sentinel.Client, request *searchv1.SearchRequest,
) ([]string, error) {
	var found []string
	for hit, err := range client.Search(ctx, request) {
		if err != nil {
			return nil, err
		}
		found = append(found, hit.Id)
	}
	return found, nil
}

// failed returns the client's error, which must be there.
func failed(t *testing.T, err error) *sentinel.Error {
	t.Helper()
	var failure *sentinel.Error
	if !errors.As(err, &failure) {
		t.Fatalf("%v is not an Error", err)
	}
	return failure
}

// eventually waits until a condition holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !holds(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// link forwards connections to a gateway, and can cut or refuse them.
type link struct {
	address  string
	refused  atomic.Int32 // connections that were refused
	toRefuse atomic.Int32
	mutex    sync.Mutex
	open     []net.Conn
}

func newLink(t *testing.T, gateway string) *link {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	made := &link{address: listener.Addr().String()}
	t.Cleanup(func() { listener.Close(); made.cut() })
	go func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			if made.toRefuse.Add(-1) >= 0 {
				made.refused.Add(1)
				near.Close()
				continue
			}
			far, err := net.Dial("tcp", gateway)
			if err != nil {
				near.Close()
				continue
			}
			made.mutex.Lock()
			made.open = append(made.open, near, far)
			made.mutex.Unlock()
			go func() { io.Copy(far, near); far.Close() }()
			go func() { io.Copy(near, far); near.Close() }()
		}
	}()
	return made
}

// cut ends all connections.
func (l *link) cut() {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	for _, one := range l.open {
		one.Close()
	}
	l.open = nil
}
