package sentinel.client;

import com.google.protobuf.DescriptorProtos.MethodOptions.IdempotencyLevel;
import io.grpc.CallOptions;
import io.grpc.Channel;
import io.grpc.ClientCall;
import io.grpc.ClientInterceptor;
import io.grpc.ForwardingClientCall.SimpleForwardingClientCall;
import io.grpc.ForwardingClientCallListener.SimpleForwardingClientCallListener;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.Status;
import java.time.Duration;
import java.util.UUID;
import java.util.concurrent.TimeUnit;
import java.util.function.Supplier;
import sentinel.search.v1.CollectionServiceGrpc;

/**
 * What every call gets if it has none: a deadline, the API key, and a request id.
 *
 * @param apiKey returns the present key or token; null for calls without one
 * @param timeout for every call; null: 30 s for calls that change nothing, 120 s for the others
 */
record CallDefaults(Supplier<String> apiKey, Duration timeout) implements ClientInterceptor {
  static final Metadata.Key<String> REQUEST_ID =
      Metadata.Key.of("x-request-id", Metadata.ASCII_STRING_MARSHALLER);
  private static final Metadata.Key<String> AUTHORIZATION =
      Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER);
  private static final String REINDEX =
      CollectionServiceGrpc.getReindexCollectionMethod().getFullMethodName();
  private static final Duration READ_TIMEOUT = Duration.ofSeconds(30);
  private static final Duration WRITE_TIMEOUT = Duration.ofSeconds(120);

  @Override
  public <Q, R> ClientCall<Q, R> interceptCall(
      MethodDescriptor<Q, R> method, CallOptions options, Channel next) {
    return new SimpleForwardingClientCall<>(next.newCall(method, withDeadline(method, options))) {
      @Override
      public void start(Listener<R> listener, Metadata headers) {
        if (!headers.containsKey(REQUEST_ID)) {
          headers.put(REQUEST_ID, UUID.randomUUID().toString().replace("-", ""));
        }
        if (apiKey != null) {
          headers.put(AUTHORIZATION, "Bearer " + checked(apiKey.get()));
        }
        super.start(remember(listener, headers.get(REQUEST_ID)), headers);
      }
    };
  }

  private CallOptions withDeadline(MethodDescriptor<?, ?> method, CallOptions options) {
    // The batches of a stream in both directions have a timeout each.
    boolean isEndless = method.getType() == MethodDescriptor.MethodType.BIDI_STREAMING;
    Duration given = timeout == null ? standard(method) : timeout;
    return options.getDeadline() != null || isEndless || given == null
        ? options
        : options.withDeadlineAfter(given.toNanos(), TimeUnit.NANOSECONDS);
  }

  private static Duration standard(MethodDescriptor<?, ?> method) {
    if (method.getFullMethodName().equals(REINDEX)) {
      return null; // as long as it takes
    }
    boolean reads = ServiceConfig.idempotency(method) == IdempotencyLevel.NO_SIDE_EFFECTS;
    return reads ? READ_TIMEOUT : WRITE_TIMEOUT;
  }

  private static String checked(String key) {
    // gRPC would fail the call and not say why.
    if (key == null || key.isEmpty() || !key.chars().allMatch(one -> one > ' ' && one < 127)) {
      throw new IllegalArgumentException(
          "the API key is empty, or has a character that no key has (such as a blank): copy it");
    }
    return key;
  }

  /** Puts the request id into the trailers, where {@link SentinelException} finds it. */
  private static <R> ClientCall.Listener<R> remember(ClientCall.Listener<R> listener, String id) {
    return new SimpleForwardingClientCallListener<>(listener) {
      @Override
      public void onClose(Status status, Metadata trailers) {
        if (!trailers.containsKey(REQUEST_ID)) {
          trailers.put(REQUEST_ID, id);
        }
        super.onClose(status, trailers);
      }
    };
  }
}
