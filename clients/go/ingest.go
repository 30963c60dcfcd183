package sentinel

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	searchv1 "sentinel.internal/go/sentinel/search/v1"
)

const (
	maxAttempts = 5

	reasonStalled = "STREAM_STALLED" // nothing was sent for too long; a new stream is welcome
)

// Ack is what became of one item of an ingest.
type Ack struct {
	Item *searchv1.Item
	// Digest is the hex SHA-256 of the item's image file or text; "" if it failed.
	Digest string
	// Err is nil if the item is stored durably; else an [*Error], and the item is not stored.
	Err error
}

// Ingest stores any number of items over streams, and yields one Ack for each:
//
//	for ack, err := range client.Ingest(ctx, "photos", slices.Values(items)) { … }
//
// Items that were not acknowledged are sent again if the connection is lost, if the gateway leaves
// and if a worker is busy: to another gateway, if there is one. To send an item twice changes
// nothing. Acknowledgements come in the order of the items, except those of items sent again. An
// error, of type [*Error], ends the ingest and is the last value.
//
// A few batches are in memory at a time. items runs on a goroutine of its own; it is read one
// batch ahead, and no further once the loop has ended. The context's deadline is for the whole
// ingest; Timeouts.Upsert is for each acknowledgement.
func (c *Client) Ingest(
	ctx context.Context, collection string, items iter.Seq[*searchv1.Item],
) iter.Seq2[Ack, error] {
	return func(yield func(Ack, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		job := &ingest{
			ctx: ctx, client: c, collection: collection,
			batches: make(chan *batch), again: make(chan *batch), acks: make(chan Ack),
			inFlight: map[uint64]*batch{},
		}
		job.advised.Store(1) // every server takes this; its advice comes first on the stream
		go func() {
			defer close(job.batches)
			readBatches(items, &job.advised, func(next *batch) bool {
				return put(ctx, job.batches, next)
			})
		}()
		var failure error
		go func() {
			defer close(job.acks)
			failure = job.run()
		}()
		for ack := range job.acks {
			if !yield(ack, nil) {
				return
			}
		}
		if failure != nil {
			yield(Ack{}, failure)
		}
	}
}

// ingest is one call of Ingest. All fields but the channels and advised belong to run.
type ingest struct {
	ctx        context.Context
	client     *Client
	collection string

	batches chan *batch // from the reader; closed after the last
	again   chan *batch // after the pause that a failed item needs
	acks    chan Ack
	advised atomic.Int64 // items in a batch

	ready        []*batch // goes before what comes from batches
	inFlight     map[uint64]*batch
	pausing      int
	sequence     uint64
	exhausted    bool
	acknowledged int
}

func (j *ingest) finished() bool {
	return j.exhausted && len(j.ready) == 0 && len(j.inFlight) == 0 && j.pausing == 0
}

// run opens one stream after the other until every item is acknowledged.
func (j *ingest) run() error {
	failed := 0 // streams without an acknowledgement, one after the other
	for {
		if err := j.awaitWork(); err != nil || j.finished() {
			return err
		}
		before := j.acknowledged
		err := j.stream()
		if err == nil {
			return nil
		}
		if j.acknowledged > before {
			failed = 0
		}
		failed++
		var reason *Error
		again := errors.As(err, &reason) && (reason.Retryable() || reason.Reason == reasonStalled)
		if !again || failed >= maxAttempts {
			return err
		}
		select {
		case <-time.After(pause(failed, reason.RetryAfter)):
		case <-j.ctx.Done():
			return contextError(j.ctx)
		}
	}
}

// awaitWork returns when there is something to send: gateways end streams that send nothing.
func (j *ingest) awaitWork() error {
	for len(j.ready)+len(j.inFlight) == 0 && !j.finished() {
		source := j.batches
		if j.exhausted {
			source = nil
		}
		select {
		case next, ok := <-source:
			if err := j.take(next, ok); err != nil {
				return err
			}
		case next := <-j.again:
			j.pausing--
			j.ready = append(j.ready, next)
		case <-j.ctx.Done():
			return contextError(j.ctx)
		}
	}
	return nil
}

// stream sends over one stream until all is acknowledged, and returns nil, or until it ends.
func (j *ingest) stream() error {
	var unsure []*batch
	for _, sequence := range slices.Sorted(maps.Keys(j.inFlight)) {
		unsure = append(unsure, j.inFlight[sequence])
	}
	j.ready = append(unsure, j.ready...)
	clear(j.inFlight)
	ctx, cancel := context.WithCancelCause(j.ctx)
	defer cancel(nil)
	call, err := j.client.ItemService.IngestItems(ctx)
	if err != nil {
		return err
	}
	watch := startWatch(j.client.timeouts.Upsert, cancel)
	defer watch.stop()
	return j.exchange(ctx, call, watch)
}

// exchange sends batches and reads acknowledgements.
func (j *ingest) exchange(ctx context.Context, call ingestCall, watch *watch) error {
	received := receive(ctx, call)
	// If sending fails, the stream has ended, and what is received says why.
	_ = call.Send(startMessage(j.collection))
	most, draining, closed := 0, false, false
	for {
		if (draining || j.finished()) && !closed {
			closed = true
			_ = call.CloseSend()
		}
		var source <-chan *batch
		if !closed && len(j.inFlight) < most {
			if len(j.ready) > 0 {
				_ = call.Send(j.next())
				watch.progress(len(j.inFlight))
				continue
			}
			if !j.exhausted {
				source = j.batches
			}
		}
		select {
		case next, ok := <-source:
			if err := j.take(next, ok); err != nil {
				return err
			}
		case next := <-j.again:
			j.pausing--
			j.ready = append(j.ready, next)
		case got := <-received:
			watch.stop() // the time that the caller takes to read is not the gateway's
			if got.err != nil {
				return j.end(got.err, draining)
			}
			if advice := got.message.GetAdvice(); advice != nil {
				most = max(1, int(advice.SuggestedBatchesInFlight))
				draining = draining || advice.Draining
				j.advised.Store(int64(cmp.Or(advice.SuggestedBatchSize, 64)))
			} else if ack := got.message.GetAck(); ack != nil {
				if err := j.acknowledge(ack); err != nil {
					return err
				}
			}
			watch.progress(len(j.inFlight))
		case <-ctx.Done():
			return contextError(ctx)
		}
	}
}

// end returns why a stream ended: nil if all is done.
func (j *ingest) end(err error, draining bool) error {
	switch {
	case !errors.Is(err, io.EOF):
		return err
	case j.finished():
		return nil
	case draining:
		return newError(codes.Unavailable, "DRAINING", "the gateway is shutting down")
	}
	return newError(codes.Unavailable, ReasonUnreachable, "the gateway ended the stream early")
}

// next moves the first batch that is ready to those in flight, and returns its message.
func (j *ingest) next() *searchv1.IngestItemsRequest {
	next := j.ready[0]
	j.ready = j.ready[1:]
	j.sequence++
	j.inFlight[j.sequence] = next
	return &searchv1.IngestItemsRequest{Message: &searchv1.IngestItemsRequest_Batch{
		Batch: &searchv1.IngestBatch{Sequence: j.sequence, Items: next.items},
	}}
}

// take puts a batch of the reader into ready; ok is false after the last one.
func (j *ingest) take(next *batch, ok bool) error {
	switch {
	case !ok:
		j.exhausted = true
	case next.refused != nil:
		return j.yield(Ack{Item: next.items[0], Err: next.refused})
	default:
		j.ready = append(j.ready, next)
	}
	return nil
}

// acknowledge yields what became of a batch; items that failed for now are sent again.
func (j *ingest) acknowledge(ack *searchv1.IngestAck) error {
	done := j.inFlight[ack.Sequence]
	if done == nil || len(ack.Failures) != len(ack.FailurePlaces) {
		return newError(codes.Internal, ReasonUnknown,
			fmt.Sprintf("the acknowledgement of batch %d is invalid", ack.Sequence))
	}
	delete(j.inFlight, ack.Sequence)
	j.acknowledged++
	failures := map[int]*Error{}
	for i, failure := range ack.Failures {
		failures[int(ack.FailurePlaces[i])] = itemError(failure.Error)
	}
	later := &batch{attempt: done.attempt + 1}
	var wait time.Duration
	for i, item := range done.items {
		one := Ack{Item: item}
		if failure := failures[i]; failure != nil {
			if failure.Retryable() && later.attempt <= maxAttempts {
				later.items = append(later.items, item)
				wait = max(wait, failure.RetryAfter)
				continue
			}
			one.Err = failure
		} else if i < len(ack.Digests) {
			one.Digest = ack.Digests[i]
		}
		if err := j.yield(one); err != nil {
			return err
		}
	}
	if len(later.items) > 0 {
		j.pausing++
		time.AfterFunc(pause(done.attempt, wait), func() { put(j.ctx, j.again, later) })
	}
	return nil
}

func (j *ingest) yield(ack Ack) error {
	if !put(j.ctx, j.acks, ack) {
		return contextError(j.ctx)
	}
	return nil
}

type ingestCall = grpc.BidiStreamingClient[
	searchv1.IngestItemsRequest, searchv1.IngestItemsResponse,
]

func startMessage(collection string) *searchv1.IngestItemsRequest {
	return &searchv1.IngestItemsRequest{Message: &searchv1.IngestItemsRequest_Start{
		Start: &searchv1.IngestStart{Collection: collection},
	}}
}
