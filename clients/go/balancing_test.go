package sentinel_test

import (
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"

	sentinel "sentinel.internal/go"
	commonv1 "sentinel.internal/go/sentinel/common/v1"
	embeddingv1 "sentinel.internal/go/sentinel/embedding/v1"
)

func TestTakingTurnsGivesAFastAndASlowWorkerTheSame(t *testing.T) {
	fast, slow := unequalWorkers(t)
	client := connect(t, fast+","+slow, sentinel.Options{})
	bothAnswer(t, client, fast, slow)
	if calls := embedAtOnce(t, client); calls[fast] != calls[slow] {
		t.Errorf("calls by worker: %v", calls)
	}
}

func TestBalancingByLoadGivesTheFasterWorkerMore(t *testing.T) {
	fast, slow := unequalWorkers(t)
	client := connect(t, fast+","+slow, sentinel.Options{BalanceByLoad: true})
	bothAnswer(t, client, fast, slow)
	var calls map[string]int
	eventually(t, "the fast worker gets more than three times the calls", func() bool {
		calls = embedAtOnce(t, client)
		return calls[fast] > 3*calls[slow]
	})
	t.Logf("fast %d, slow %d", calls[fast], calls[slow])
	// Weights hold back calls, but cut off nobody: else a worker could not say that it is free.
	bothAnswer(t, client, fast, slow)
}

func unequalWorkers(t *testing.T) (fast, slow string) {
	t.Helper()
	fast, slow, _ = strings.Cut(variable(t, "UNEQUAL_WORKERS"), ",")
	return fast, slow
}

func bothAnswer(t *testing.T, client *sentinel.Client, one, other string) {
	t.Helper()
	eventually(t, "both workers get calls", func() bool {
		calls := embedAtOnce(t, client)
		return calls[one] > 0 && calls[other] > 0
	})
}

// embedAtOnce has eight callers make five calls each; it returns how many each worker answered.
func embedAtOnce(t *testing.T, client *sentinel.Client) map[string]int {
	t.Helper()
	request := &embeddingv1.EmbedRequest{Contents: []*commonv1.Content{sentinel.TextContent("red")}}
	calls := map[string]int{}
	var mutex sync.Mutex
	var callers sync.WaitGroup
	for range 8 {
		callers.Go(func() {
			for range 5 {
				var at peer.Peer
				if _, err := client.EmbeddingService.Embed(t.Context(), request, grpc.Peer(&at)); err != nil {
					t.Error(err)
					return
				}
				mutex.Lock()
				calls[at.Addr.String()]++
				mutex.Unlock()
			}
		})
	}
	callers.Wait()
	return calls
}
