package sentinel

import (
	"context"
	"fmt"
	"iter"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	searchv1 "sentinel.internal/go/sentinel/search/v1"
)

const (
	maxBatchBytes = 14 << 20
	maxItemBytes  = maxMessageBytes - 4096

	firstPause = 200 * time.Millisecond
	longPause  = 5 * time.Second
)

// batch is items that are sent together; attempt counts from 1.
type batch struct {
	items   []*searchv1.Item
	attempt int
	refused *Error // why its only item cannot be sent
}

// readBatches groups items until there are no more, or until emit returns false. A batch has as
// many items as the gateway advises by then.
func readBatches(items iter.Seq[*searchv1.Item], advised *atomic.Int64, emit func(*batch) bool) {
	next, size := &batch{attempt: 1}, 0
	flush := func() bool {
		full := next
		next, size = &batch{attempt: 1}, 0
		return len(full.items) == 0 || emit(full)
	}
	for item := range items {
		bytes := proto.Size(item)
		if refused := unsendable(item, bytes); refused != nil {
			if !emit(&batch{items: []*searchv1.Item{item}, refused: refused}) {
				return
			}
			continue
		}
		if size+bytes > maxBatchBytes && !flush() {
			return
		}
		next.items = append(next.items, item)
		size += bytes
		if len(next.items) >= int(advised.Load()) && !flush() {
			return
		}
	}
	flush()
}

// unsendable returns why gRPC would not send an item of so many bytes; nil if it would. One such
// item would end the stream of all.
func unsendable(item *searchv1.Item, bytes int) *Error {
	if bytes > maxItemBytes {
		return newError(codes.InvalidArgument, "BATCH_TOO_LARGE", fmt.Sprintf(
			"the item has more than %d bytes; send a smaller image", maxItemBytes))
	}
	if _, err := proto.Marshal(item); err != nil {
		return newError(codes.InvalidArgument, ReasonNotUnicode,
			"the item's id, text, image URI or a field is not UTF-8; convert it, for example with "+
				"strings.ToValidUTF8")
	}
	return nil
}

type receipt struct {
	message *searchv1.IngestItemsResponse
	err     error
}

// receive reads a stream until its end, which is the last receipt.
func receive(ctx context.Context, call ingestCall) <-chan receipt {
	received := make(chan receipt)
	go func() {
		for {
			message, err := call.Recv()
			if !put(ctx, received, receipt{message, err}) || err != nil {
				return
			}
		}
	}()
	return received
}

// put sends a value, unless the context ends first.
func put[T any](ctx context.Context, to chan<- T, value T) bool {
	select {
	case to <- value:
		return true
	case <-ctx.Done():
		return false
	}
}

// pause returns how long to wait after so many failures: at least what the server asks for.
func pause(failures int, asked time.Duration) time.Duration {
	own := min(longPause, firstPause<<(failures-1))
	jitter := time.Duration(rand.Int64N(int64(own)))
	if asked > 0 {
		return asked + min(jitter, asked)
	}
	return own/2 + jitter/2
}

// watch ends a stream whose gateway acknowledges nothing for too long. It starts running: the
// gateway sends its advice first.
type watch struct {
	timer   *time.Timer
	timeout time.Duration
}

func startWatch(timeout time.Duration, cancel context.CancelCauseFunc) *watch {
	return &watch{time.AfterFunc(timeout, func() {
		cancel(newError(codes.DeadlineExceeded, ReasonOutOfTime,
			"the gateway acknowledged nothing for "+timeout.String()+"; use a longer timeout"))
	}), timeout}
}

// progress starts the time again if the gateway has something to acknowledge.
func (w *watch) progress(inFlight int) {
	if inFlight > 0 {
		w.timer.Reset(w.timeout)
	} else {
		w.timer.Stop()
	}
}

func (w *watch) stop() { w.timer.Stop() }

// contextError returns why a context is done: the watch's error, or the caller's.
func contextError(ctx context.Context) error {
	if failure, ok := context.Cause(ctx).(*Error); ok {
		return failure
	}
	return toError(status.FromContextError(ctx.Err()).Err(), "")
}
