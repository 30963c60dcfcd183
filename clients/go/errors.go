package sentinel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Reasons that no server sends.
const (
	// ReasonUnreachable: no gateway answers at the address, or the connection broke.
	ReasonUnreachable = "UNREACHABLE"
	// ReasonOutOfTime: the deadline passed. Servers send it, too.
	ReasonOutOfTime = "OUT_OF_TIME"
	// ReasonTruncated: a stream of hits ended without its summary, so hits may be missing.
	ReasonTruncated = "RESULT_TRUNCATED"
	// ReasonNotUnicode: a string of an item is not UTF-8.
	ReasonNotUnicode = "NOT_UNICODE"
	// ReasonUnknown: the error is not from Sentinel, but from a proxy or gRPC.
	ReasonUnknown = "UNKNOWN"
)

// Error is a failed call, or one failed item of a batch. Use [errors.As]:
//
//	var failed *sentinel.Error
//	if errors.As(err, &failed) && failed.Reason == "COLLECTION_NOT_FOUND" { … }
//
// It is [context.DeadlineExceeded] or [context.Canceled] for [errors.Is] if its code says so, and
// [status.FromError] knows it.
type Error struct {
	// Code is the gRPC status code.
	Code codes.Code
	// Reason is a name of the contract's ErrorReason without its prefix, or one of those above.
	Reason string
	// Message says what is wrong and what to do about it.
	Message string
	// Metadata are short strings for programs, such as limit: 64.
	Metadata map[string]string
	// Field is the path of the request's field with the error, or "".
	Field string
	// RetryAfter is how long to wait before a retry; 0 if the server gave no time.
	RetryAfter time.Duration
	// RequestID is in the logs of the servers, too; "" for an item.
	RequestID string

	status *status.Status
}

func (e *Error) Error() string { return fmt.Sprintf("%s [%s]", e.Message, e.Reason) }

// GRPCStatus returns the status that the server sent.
func (e *Error) GRPCStatus() *status.Status { return e.status }

// Is makes errors.Is work for the errors of package context.
func (e *Error) Is(target error) bool {
	return target == context.DeadlineExceeded && e.Code == codes.DeadlineExceeded ||
		target == context.Canceled && e.Code == codes.Canceled
}

// Retryable tells whether the same call may succeed when repeated.
func (e *Error) Retryable() bool {
	// Without a time, RESOURCE_EXHAUSTED is a limit, such as a message's size, and not a queue.
	return e.Code == codes.Unavailable || e.Code == codes.ResourceExhausted && e.RetryAfter > 0
}

// toError converts what gRPC returned; nil and io.EOF stay as they are.
func toError(err error, requestID string) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	from := status.Convert(err)
	var wrapped interface{ GRPCStatus() *status.Status }
	if errors.As(err, &wrapped) {
		from = wrapped.GRPCStatus() // after the last retry, gRPC writes its own words around it
	}
	converted := fromStatus(from)
	converted.RequestID = requestID
	return converted
}

// itemError converts the status of one item.
func itemError(proto *rpcstatus.Status) *Error { return fromStatus(status.FromProto(proto)) }

func fromStatus(from *status.Status) *Error {
	converted := &Error{
		Code: from.Code(), Reason: reasonWithoutDetails(from.Code()), Message: from.Message(),
		status: from,
	}
	for _, detail := range from.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			if detail.Domain == "sentinel" {
				converted.Reason, converted.Metadata = detail.Reason, detail.Metadata
			}
		case *errdetails.RetryInfo:
			converted.RetryAfter = detail.RetryDelay.AsDuration()
		case *errdetails.BadRequest:
			if len(detail.FieldViolations) > 0 {
				converted.Field = detail.FieldViolations[0].Field
			}
		}
	}
	return converted
}

func reasonWithoutDetails(code codes.Code) string {
	switch code {
	case codes.Unavailable:
		return ReasonUnreachable
	case codes.DeadlineExceeded:
		return ReasonOutOfTime
	}
	return ReasonUnknown
}

func newError(code codes.Code, reason, message string) *Error {
	return &Error{Code: code, Reason: reason, Message: message, status: status.New(code, message)}
}
