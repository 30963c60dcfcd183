// Load searches a collection with many callers at once and prints, as JSON, how fast that was.
// benchmarks/gateway/go_load.py runs it.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	sentinel "sentinel.internal/go"
	searchv1 "sentinel.internal/go/sentinel/search/v1"
)

type report struct {
	PerSecond  float64 `json:"per_second"`
	P50        float64 `json:"p50_ms"`
	P99        float64 `json:"p99_ms"`
	Failed     int64   `json:"failed"`
	CPUSeconds float64 `json:"cpu_seconds"`
	Seconds    float64 `json:"seconds"`
}

func main() {
	log.SetFlags(0)
	addresses := flag.String("addresses", "127.0.0.1:50050", "the gateways")
	collection := flag.String("collection", "load", "what to search")
	callers := flag.Int("callers", 64, "searches at a time")
	length := flag.Duration("for", time.Minute, "how long")
	texts := flag.Int("texts", 32, "different queries; after the first round all are cached")
	flag.Parse()
	client, err := sentinel.New(*addresses, sentinel.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	queries := make([]*searchv1.SearchRequest, *texts)
	for i := range queries {
		text := fmt.Sprintf("a photo of %d red boats on the river", i)
		queries[i] = &searchv1.SearchRequest{Params: &searchv1.SearchParams{
			Collection: *collection, Query: sentinel.Text(text),
		}}
		if err := search(client, queries[i]); err != nil {
			log.Fatal(err)
		}
	}
	run(client, queries, *callers, 2*time.Second) // warms up
	result := run(client, queries, *callers, *length)
	if err := json.NewEncoder(os.Stdout).Encode(result); err != nil {
		log.Fatal(err)
	}
}

func run(
	client *sentinel.Client, queries []*searchv1.SearchRequest, callers int, length time.Duration,
) report {
	var failed atomic.Int64
	var group sync.WaitGroup
	latencies := make([][]time.Duration, callers)
	cpu, start := processTime(), time.Now()
	for caller := range callers {
		group.Go(func() {
			for turn := caller; time.Since(start) < length; turn++ {
				sent := time.Now()
				if err := search(client, queries[turn%len(queries)]); err != nil {
					failed.Add(1)
					continue
				}
				latencies[caller] = append(latencies[caller], time.Since(sent))
			}
		})
	}
	group.Wait()
	seconds := time.Since(start).Seconds()
	all := slices.Sorted(slices.Values(slices.Concat(latencies...)))
	at := func(share float64) float64 {
		if len(all) == 0 {
			return 0
		}
		return float64(all[int(share*float64(len(all)-1))].Microseconds()) / 1000
	}
	return report{
		PerSecond: float64(len(all)) / seconds, P50: at(0.5), P99: at(0.99), Failed: failed.Load(),
		CPUSeconds: (processTime() - cpu).Seconds(), Seconds: seconds,
	}
}

func search(client *sentinel.Client, request *searchv1.SearchRequest) error {
	for _, err := range client.Search(context.Background(), request) {
		if err != nil {
			return err
		}
	}
	return nil
}

// processTime returns the CPU time that this process has used.
func processTime() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		log.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
