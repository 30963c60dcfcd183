package sentinel.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.grpc.MethodDescriptor;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;
import sentinel.search.v1.CollectionServiceGrpc;
import sentinel.search.v1.ItemServiceGrpc;
import sentinel.search.v1.SearchServiceGrpc;

/** Which calls gRPC repeats. */
class ServiceConfigTest {
  private static Map<?, ?> methodConfig() {
    List<?> configs = (List<?>) ServiceConfig.json().get("methodConfig");
    assertEquals(1, configs.size());
    return (Map<?, ?>) configs.get(0);
  }

  private static boolean isRepeated(MethodDescriptor<?, ?> method) {
    String service = method.getServiceName();
    Map<?, ?> name = Map.of("service", service, "method", method.getBareMethodName());
    return ((List<?>) methodConfig().get("name")).contains(name);
  }

  @Test
  void callsThatAreSafeToRepeatAreRepeated() {
    assertTrue(isRepeated(SearchServiceGrpc.getSearchMethod()));
    assertTrue(isRepeated(ItemServiceGrpc.getUpsertItemsMethod()));
    assertFalse(isRepeated(CollectionServiceGrpc.getCreateCollectionMethod()));
    assertFalse(isRepeated(ItemServiceGrpc.getIngestItemsMethod()));
  }

  @Test
  void aGatewayThatIsAwayIsAskedUpToFiveTimes() {
    Map<?, ?> policy = (Map<?, ?>) methodConfig().get("retryPolicy");
    assertEquals(5.0, policy.get("maxAttempts"));
    assertTrue(((List<?>) policy.get("retryableStatusCodes")).contains("UNAVAILABLE"));
  }
}
