package sentinel

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"

	embeddingv1 "sentinel.internal/go/sentinel/embedding/v1"
	searchv1 "sentinel.internal/go/sentinel/search/v1"
)

const maxMessageBytes = 64 << 20

// Options configures a [Client]. The zero value is for a gateway without TLS and keys.
type Options struct {
	// TLS turns on TLS; nil: none. [TLSFromFile] makes one from a CA.
	TLS *tls.Config
	// APIKey is sent with each call. Without TLS, only to this machine.
	APIKey string
	// Timeouts are for calls whose context has no deadline.
	Timeouts Timeouts
	// BalanceByLoad gives busy gateways fewer calls, by the load that they report with each call:
	// one that is twice as fast gets twice as many. Weights count ten seconds after the first
	// report. False: all get the same number.
	BalanceByLoad bool
	// DialOptions come after the client's own, for example further interceptors, or
	// credentials that renew a token.
	DialOptions []grpc.DialOption
}

// Timeouts are the times for one call with its retries; 0 is the default.
type Timeouts struct {
	// Search is for searches; default 30 s.
	Search time.Duration
	// Upsert is for UpsertItems, Embed and Rank, and for each acknowledgement of an ingest;
	// default 2 min.
	Upsert time.Duration
	// Read is for other calls that change nothing; default 30 s.
	Read time.Duration
	// Write is for other calls; default 1 min.
	Write time.Duration
}

// Client calls one or more gateways. Use one for the whole program, from any goroutine.
type Client struct {
	SearchService     searchv1.SearchServiceClient
	ItemService       searchv1.ItemServiceClient
	CollectionService searchv1.CollectionServiceClient
	AccessService     searchv1.AccessServiceClient
	EmbeddingService  embeddingv1.EmbeddingServiceClient

	connection *grpc.ClientConn
	timeouts   Timeouts
}

// New returns a client of the gateways at addresses: one host:port, or several, separated by
// commas. Calls go to all of them, and to all IP addresses of a single name, in turns or by
// [Options.BalanceByLoad]. New does not connect; the first call does.
func New(addresses string, options Options) (*Client, error) {
	hosts, err := split(addresses)
	if err != nil {
		return nil, err
	}
	transport := insecure.NewCredentials()
	if options.TLS != nil {
		transport = credentials.NewTLS(options.TLS)
	}
	timeouts := options.Timeouts.withDefaults()
	dial := []grpc.DialOption{
		grpc.WithTransportCredentials(transport),
		grpc.WithDefaultServiceConfig(serviceConfig(options.BalanceByLoad)),
		grpc.WithChainUnaryInterceptor(callUnary(timeouts)),
		grpc.WithChainStreamInterceptor(callStream(timeouts)),
		grpc.WithDefaultCallOptions(
			grpc.MaxCallRecvMsgSize(maxMessageBytes),
			grpc.MaxCallSendMsgSize(maxMessageBytes),
			// gRPC forgets larger requests, and could not repeat an image of a megabyte.
			grpc.MaxRetryRPCBufferSize(maxMessageBytes),
		),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{
			// The servers accept one ping every 20 s.
			Time: 30 * time.Second, Timeout: 10 * time.Second, PermitWithoutStream: true,
		}),
		// Reconnect within the time of the retries; the default grows to two minutes.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{
				BaseDelay: 200 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2,
				MaxDelay: 3 * time.Second,
			},
			MinConnectTimeout: 5 * time.Second,
		}),
	}
	if options.APIKey != "" {
		if options.TLS == nil && !onLoopback(hosts) {
			return nil, errors.New("sentinel: without TLS, everybody on the way to another " +
				"machine can read the API key: set Options.TLS")
		}
		dial = append(dial, grpc.WithPerRPCCredentials(apiKey(options.APIKey)))
	}
	target, resolving := target(hosts)
	dial = append(append(dial, resolving...), options.DialOptions...)
	connection, err := grpc.NewClient(target, dial...)
	if err != nil {
		return nil, fmt.Errorf("sentinel: %w", err)
	}
	return &Client{
		SearchService:     searchv1.NewSearchServiceClient(connection),
		ItemService:       searchv1.NewItemServiceClient(connection),
		CollectionService: searchv1.NewCollectionServiceClient(connection),
		AccessService:     searchv1.NewAccessServiceClient(connection),
		EmbeddingService:  embeddingv1.NewEmbeddingServiceClient(connection),
		connection:        connection,
		timeouts:          timeouts,
	}, nil
}

// Close ends all calls and connections.
func (c *Client) Close() error { return c.connection.Close() }

// Connection is for stubs that the client has no field for, such as those of health checks.
func (c *Client) Connection() grpc.ClientConnInterface { return c.connection }

// TLSFromFile returns a configuration that trusts the CAs of a PEM file.
func TLSFromFile(ca string) (*tls.Config, error) {
	pem, err := os.ReadFile(ca)
	if err != nil {
		return nil, fmt.Errorf("sentinel: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("sentinel: %s holds no certificate in PEM format", ca)
	}
	return &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}, nil
}

func split(addresses string) ([]string, error) {
	hosts := strings.Split(addresses, ",")
	for i, host := range hosts {
		hosts[i] = strings.TrimSpace(host)
		_, port, err := net.SplitHostPort(hosts[i])
		if _, wrong := strconv.ParseUint(port, 10, 16); err != nil || wrong != nil {
			return nil, fmt.Errorf("sentinel: %q is not host:port, nor several with commas between",
				addresses)
		}
	}
	return hosts, nil
}

// target returns what to dial: one name, whose IP addresses DNS tells, or a list.
func target(hosts []string) (string, []grpc.DialOption) {
	if len(hosts) == 1 {
		return "dns:///" + hosts[0], nil
	}
	list := manual.NewBuilderWithScheme("sentinel")
	var state resolver.State
	for _, host := range hosts {
		// The certificate of each must have its own name.
		name, _, _ := net.SplitHostPort(host)
		state.Endpoints = append(state.Endpoints, resolver.Endpoint{
			Addresses: []resolver.Address{{Addr: host, ServerName: name}},
		})
	}
	list.InitialState(state)
	return "sentinel:///" + hosts[0], []grpc.DialOption{grpc.WithResolvers(list)}
}

func onLoopback(hosts []string) bool {
	for _, host := range hosts {
		name, _, _ := net.SplitHostPort(host)
		if ip := net.ParseIP(name); name != "localhost" && (ip == nil || !ip.IsLoopback()) {
			return false
		}
	}
	return true
}

type apiKey string

func (k apiKey) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(k)}, nil
}

// RequireTransportSecurity is false because New has refused keys that would leave the machine.
func (k apiKey) RequireTransportSecurity() bool { return false }

func (t Timeouts) withDefaults() Timeouts {
	or := func(given, otherwise time.Duration) time.Duration {
		if given == 0 {
			return otherwise
		}
		return given
	}
	return Timeouts{
		Search: or(t.Search, 30*time.Second),
		Upsert: or(t.Upsert, 2*time.Minute),
		Read:   or(t.Read, 30*time.Second),
		Write:  or(t.Write, time.Minute),
	}
}
