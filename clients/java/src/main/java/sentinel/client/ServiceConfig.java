package sentinel.client;

import com.google.protobuf.DescriptorProtos.MethodOptions.IdempotencyLevel;
import io.grpc.MethodDescriptor;
import io.grpc.ServiceDescriptor;
import io.grpc.protobuf.ProtoMethodDescriptorSupplier;
import java.util.List;
import java.util.Map;
import sentinel.embedding.v1.EmbeddingServiceGrpc;
import sentinel.search.v1.AccessServiceGrpc;
import sentinel.search.v1.CollectionServiceGrpc;
import sentinel.search.v1.ItemServiceGrpc;
import sentinel.search.v1.SearchServiceGrpc;

/**
 * How gRPC balances and retries.
 *
 * <p>It sends each call to the next gateway. It repeats only calls that the contract marks as safe
 * to repeat, and a stream only before its first message. Gateways answer RESOURCE_EXHAUSTED with
 * {@code grpc-retry-pushback-ms}, and gRPC then waits that long.
 */
final class ServiceConfig {
  private static final List<ServiceDescriptor> SERVICES =
      List.of(
          SearchServiceGrpc.getServiceDescriptor(),
          ItemServiceGrpc.getServiceDescriptor(),
          CollectionServiceGrpc.getServiceDescriptor(),
          AccessServiceGrpc.getServiceDescriptor(),
          EmbeddingServiceGrpc.getServiceDescriptor());

  // A gateway that is lost cancels calls; one that shuts down refuses them as UNAVAILABLE.
  private static final Map<String, ?> RETRY_POLICY =
      Map.of(
          "maxAttempts", 5.0,
          "initialBackoff", "0.2s",
          "maxBackoff", "5s",
          "backoffMultiplier", 2.0,
          "retryableStatusCodes", List.of("UNAVAILABLE", "RESOURCE_EXHAUSTED", "CANCELLED"));

  // After 500 failures, at most a fifth of the calls is repeated: more would keep servers overloaded.
  // 500, since a gateway that shuts down refuses many calls at once, and all of them need a retry.
  private static final Map<String, ?> RETRY_THROTTLING =
      Map.of("maxTokens", 1000.0, "tokenRatio", 0.2);

  private ServiceConfig() {}

  /** Returns the service config, in the form that gRPC takes: all numbers are doubles. */
  static Map<String, ?> json() {
    List<Map<String, String>> repeatable =
        SERVICES.stream()
            .flatMap(service -> service.getMethods().stream())
            .filter(method -> idempotency(method) != IdempotencyLevel.IDEMPOTENCY_UNKNOWN)
            .map(ServiceConfig::name)
            .toList();
    return Map.of(
        "loadBalancingConfig", List.of(Map.of("round_robin", Map.of())),
        "methodConfig", List.of(Map.of("name", repeatable, "retryPolicy", RETRY_POLICY)),
        "retryThrottling", RETRY_THROTTLING);
  }

  /** Returns what the contract says about repeating a call. */
  static IdempotencyLevel idempotency(MethodDescriptor<?, ?> method) {
    return method.getSchemaDescriptor() instanceof ProtoMethodDescriptorSupplier schema
        ? schema.getMethodDescriptor().getOptions().getIdempotencyLevel()
        : IdempotencyLevel.IDEMPOTENCY_UNKNOWN;
  }

  private static Map<String, String> name(MethodDescriptor<?, ?> method) {
    String[] parts = method.getFullMethodName().split("/");
    return Map.of("service", parts[0], "method", parts[1]);
  }
}
