package sentinel

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/balancer/roundrobin"
	"google.golang.org/grpc/balancer/weightedroundrobin"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	embeddingv1 "sentinel.internal/go/sentinel/embedding/v1"
	searchv1 "sentinel.internal/go/sentinel/search/v1"
)

const requestIDKey = "x-request-id"

type object = map[string]any

// serviceConfig has gRPC spread calls over all gateways and repeat those that the contract marks
// as safe to repeat. UNAVAILABLE is repeated after a growing pause; where the gateway asks for a
// pause, as it does with RESOURCE_EXHAUSTED for a full queue, gRPC keeps to that.
func serviceConfig(balanceByLoad bool) string {
	balancing := roundrobin.Name
	if balanceByLoad {
		balancing = weightedroundrobin.Name
	}
	var safe []object
	for _, file := range []protoreflect.FileDescriptor{
		searchv1.File_sentinel_search_v1_search_service_proto,
		searchv1.File_sentinel_search_v1_item_service_proto,
		searchv1.File_sentinel_search_v1_collection_service_proto,
		searchv1.File_sentinel_search_v1_access_service_proto,
		embeddingv1.File_sentinel_embedding_v1_embedding_service_proto,
	} {
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			for j := range service.Methods().Len() {
				method := service.Methods().Get(j)
				options := method.Options().(*descriptorpb.MethodOptions)
				if options.GetIdempotencyLevel() != descriptorpb.MethodOptions_IDEMPOTENCY_UNKNOWN {
					safe = append(safe, object{
						"service": service.FullName(), "method": method.Name(),
					})
				}
			}
		}
	}
	config, err := json.Marshal(object{
		"loadBalancingConfig": []object{{balancing: object{}}},
		"methodConfig": []object{{
			"name": safe,
			"retryPolicy": object{
				"maxAttempts": 5, "initialBackoff": "0.2s", "backoffMultiplier": 2,
				"maxBackoff":           "5s",
				"retryableStatusCodes": []string{"UNAVAILABLE", "RESOURCE_EXHAUSTED"},
			},
		}},
		// Overloaded servers get few repeats: a fifth of the calls, after the first 500. Fewer than
		// that could fail calls when a gateway leaves that serves hundreds of them.
		"retryThrottling": object{"maxTokens": 1000, "tokenRatio": 0.2},
	})
	if err != nil {
		panic(err) // a map of strings and numbers
	}
	return string(config)
}

// forCall returns what a call with this method's default timeout runs in, and its request id.
func (t Timeouts) forCall(
	ctx context.Context, method string,
) (context.Context, context.CancelFunc, string) {
	id := rand.Text()
	if given, _ := metadata.FromOutgoingContext(ctx); len(given.Get(requestIDKey)) > 0 {
		id = given.Get(requestIDKey)[0]
	} else {
		ctx = metadata.AppendToOutgoingContext(ctx, requestIDKey, id)
	}
	_, hasDeadline := ctx.Deadline()
	if timeout := t.of(method); timeout > 0 && !hasDeadline {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		return ctx, cancel, id
	}
	return ctx, func() {}, id
}

// of returns the default timeout of a method; 0 for those that last as long as their caller wants.
func (t Timeouts) of(method string) time.Duration {
	name := method[strings.LastIndexByte(method, '/')+1:]
	switch {
	case name == "IngestItems" || name == "ReindexCollection" || name == "Watch":
		return 0
	case strings.Contains(name, "Search"):
		return t.Search
	case name == "UpsertItems" || name == "Embed" || name == "Rank":
		return t.Upsert
	case strings.HasPrefix(name, "Get"), strings.HasPrefix(name, "List"),
		strings.HasPrefix(name, "Download"):
		return t.Read
	}
	return t.Write
}

func callUnary(timeouts Timeouts) grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, request, response any,
		connection *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
		ctx, cancel, id := timeouts.forCall(ctx, method)
		defer cancel()
		return toError(invoke(ctx, method, request, response, connection, options...), id)
	}
}

func callStream(timeouts Timeouts) grpc.StreamClientInterceptor {
	return func(ctx context.Context, description *grpc.StreamDesc, connection *grpc.ClientConn,
		method string, open grpc.Streamer, options ...grpc.CallOption) (grpc.ClientStream, error) {
		ctx, cancel, id := timeouts.forCall(ctx, method)
		stream, err := open(ctx, description, connection, method, options...)
		if err != nil {
			cancel()
			return nil, toError(err, id)
		}
		return &callingStream{stream, cancel, id}, nil
	}
}

// callingStream converts errors, and ends the timeout with the stream.
type callingStream struct {
	grpc.ClientStream
	cancel context.CancelFunc
	id     string
}

func (s *callingStream) RecvMsg(message any) error {
	err := s.ClientStream.RecvMsg(message)
	if err != nil {
		s.cancel()
	}
	return toError(err, s.id)
}

func (s *callingStream) SendMsg(message any) error {
	return toError(s.ClientStream.SendMsg(message), s.id)
}
