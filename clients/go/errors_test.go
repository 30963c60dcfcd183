package sentinel

import (
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
)

// A gateway of the tests is never so busy that it asks for a pause.
func TestErrorTellsWhenToRetry(t *testing.T) {
	full := status.New(codes.ResourceExhausted, "the queue is full; retry later")
	limit := toError(full.Err(), "id").(*Error)
	if limit.Retryable() || limit.Reason != ReasonUnknown {
		t.Errorf("%+v", limit)
	}
	detailed, err := full.WithDetails(
		&errdetails.ErrorInfo{Domain: "sentinel", Reason: "QUEUE_FULL"},
		&errdetails.RetryInfo{RetryDelay: durationpb.New(3 * time.Second)},
	)
	if err != nil {
		t.Fatal(err)
	}
	busy := toError(detailed.Err(), "id").(*Error)
	if !busy.Retryable() || busy.RetryAfter != 3*time.Second || busy.Reason != "QUEUE_FULL" ||
		busy.RequestID != "id" {
		t.Errorf("%+v", busy)
	}
	if wait := pause(1, busy.RetryAfter); wait < 3*time.Second || wait > 4*time.Second {
		t.Errorf("a pause of %v", wait)
	}
}
