package sentinel_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"

	sentinel "sentinel.internal/go"
	searchv1 "sentinel.internal/go/sentinel/search/v1"
)

// The second gateway is gone after this test, so it has parts.
func TestTwoGateways(t *testing.T) {
	addresses := strings.Split(variable(t, "ADDRESSES"), ",")
	var streams sync.Map // the gateways that ingest streams were at
	note := func(ctx context.Context, description *grpc.StreamDesc, connection *grpc.ClientConn,
		method string, open grpc.Streamer, options ...grpc.CallOption) (grpc.ClientStream, error) {
		if strings.HasSuffix(method, "/IngestItems") {
			at := new(peer.Peer)
			options = append(options, grpc.Peer(at), grpc.OnFinish(func(error) {
				if at.Addr != nil {
					streams.Store(at.Addr.String(), true)
				}
			}))
		}
		return open(ctx, description, connection, method, options...)
	}
	client := connect(t, strings.Join(addresses, ","), sentinel.Options{
		DialOptions: []grpc.DialOption{grpc.WithChainStreamInterceptor(note)},
	})
	if !t.Run("Balance", func(t *testing.T) { balance(t, client, addresses) }) {
		return
	}
	t.Run("Drain", func(t *testing.T) {
		drain(t, client)
		for _, address := range addresses {
			if _, used := streams.Load(address); !used {
				t.Errorf("no ingest was at %s", address)
			}
		}
	})
}

// balance finds that calls take turns.
func balance(t *testing.T, client *sentinel.Client, addresses []string) {
	call := func() string {
		var at peer.Peer
		_, err := client.AccessService.GetCaller(
			t.Context(), &searchv1.GetCallerRequest{}, grpc.Peer(&at))
		if err != nil {
			t.Fatal(err)
		}
		return at.Addr.String()
	}
	eventually(t, "both gateways are connected", func() bool { return call() != call() })
	calls := map[string]int{}
	for range 20 {
		calls[call()]++
	}
	if calls[addresses[0]] != 10 || calls[addresses[1]] != 10 {
		t.Errorf("calls by gateway: %v", calls)
	}
}

// drain stops one gateway in the middle of two ingests, one at each, and of searches.
func drain(t *testing.T, client *sentinel.Client) {
	const each, searchers = 40, 4
	names := []string{collection(t, client, "drain_a"), collection(t, client, "drain_b")}
	folder := variable(t, "SWITCH")
	drained := make(chan struct{})
	var started, everybody sync.WaitGroup
	started.Add(len(names))
	for _, name := range names {
		first := sync.OnceFunc(started.Done)
		items := func(yield func(*searchv1.Item) bool) {
			for item := range numbered(each) {
				if item.Id == fmt.Sprint(each-1) {
					<-drained // so that the stream is in use all the while
				}
				if !yield(item) {
					return
				}
			}
		}
		everybody.Go(func() {
			defer first()
			acknowledged := 0
			for ack, err := range client.Ingest(t.Context(), name, items) {
				if err != nil || ack.Err != nil {
					t.Error(err, ack.Err)
					continue
				}
				acknowledged++
				first()
			}
			if acknowledged != each {
				t.Errorf("%s: %d of %d items were acknowledged", name, acknowledged, each)
			}
		})
	}
	started.Wait()
	var searches atomic.Int64
	for range searchers {
		everybody.Go(func() {
			for after := 0; after < 20; {
				select {
				case <-drained:
					after++
				default:
				}
				if _, err := ids(t.Context(), client, request(names[0], sentinel.Text("a note"))); err != nil {
					t.Errorf("a search failed: %v", err)
				}
				searches.Add(1)
			}
		})
	}
	eventually(t, "searches run", func() bool { return searches.Load() >= 2*searchers })
	if err := os.WriteFile(filepath.Join(folder, "drain"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the gateway is gone", func() bool {
		_, err := os.Stat(filepath.Join(folder, "drained"))
		return err == nil
	})
	close(drained)
	everybody.Wait()
	for _, name := range names {
		if there := count(t, client, name); there != each {
			t.Errorf("%s: %d of %d items are stored", name, there, each)
		}
	}
	t.Logf("%d searches", searches.Load())
}
