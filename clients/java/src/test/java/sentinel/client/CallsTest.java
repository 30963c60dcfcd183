package sentinel.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.grpc.CallOptions;
import io.grpc.Channel;
import io.grpc.ClientCall;
import io.grpc.MethodDescriptor;
import io.grpc.Status;
import java.io.IOException;
import java.nio.file.Path;
import java.time.Duration;
import java.util.List;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.Test;
import sentinel.common.v1.ErrorReason;
import sentinel.search.v1.AccessServiceGrpc;
import sentinel.search.v1.CollectionServiceGrpc;
import sentinel.search.v1.GetCallerRequest;
import sentinel.search.v1.Hit;
import sentinel.search.v1.ItemServiceGrpc;
import sentinel.search.v1.SearchServiceGrpc;

/** Deadlines, errors, TLS and keys. */
class CallsTest {
  private static SentinelException failure(SentinelClient client, String collection, int limit) {
    try (client) {
      Hits hits = client.search(collection, Contents.text("a cat"), limit);
      return assertThrows(SentinelException.class, () -> hits.forEach((Hit hit) -> {}));
    }
  }

  /** The seconds that a call without a deadline of its own gets; null: no deadline. */
  private static Long seconds(MethodDescriptor<?, ?> method) {
    CallOptions[] used = new CallOptions[1];
    Channel channel =
        new Channel() {
          @Override
          public <Q, R> ClientCall<Q, R> newCall(MethodDescriptor<Q, R> to, CallOptions options) {
            used[0] = options;
            return null; // nothing is sent
          }

          @Override
          public String authority() {
            return "";
          }
        };
    new CallDefaults(null, null).interceptCall(method, CallOptions.DEFAULT, channel);
    return used[0].getDeadline() == null
        ? null
        : Math.round(used[0].getDeadline().timeRemaining(TimeUnit.MILLISECONDS) / 1e3);
  }

  @Test
  void everyCallHasADeadline() {
    assertEquals(30, seconds(SearchServiceGrpc.getSearchMethod()));
    assertEquals(120, seconds(ItemServiceGrpc.getUpsertItemsMethod()));
    assertEquals(120, seconds(CollectionServiceGrpc.getCreateCollectionMethod()));
    assertNull(seconds(ItemServiceGrpc.getIngestItemsMethod()));
    assertNull(seconds(CollectionServiceGrpc.getReindexCollectionMethod()));
  }

  @Test
  void aDeadlineThatPassesIsToldAsSuch() {
    SentinelClient client = SentinelClient.connect(Live.ADDRESS);
    SentinelException error = failure(client.withTimeout(Duration.ofNanos(1)), "none", 1);
    assertEquals(Status.Code.DEADLINE_EXCEEDED, error.code());
    assertEquals(SentinelException.OUT_OF_TIME, error.reason());
  }

  @Test
  void anErrorHasItsReason() {
    SentinelException error = failure(SentinelClient.connect(Live.ADDRESS), "java_none", 1);
    assertEquals(Status.Code.NOT_FOUND, error.code());
    assertEquals("COLLECTION_NOT_FOUND", error.reason());
    assertTrue(error.is(ErrorReason.ERROR_REASON_COLLECTION_NOT_FOUND));
    assertEquals("java_none", error.metadata().get("collection"));
    assertFalse(error.isRetryable());
    assertTrue(error.requestId().matches("[0-9a-f]{32}"), error.requestId());
  }

  @Test
  void anErrorNamesTheField() {
    SentinelException error = failure(SentinelClient.connect(Live.ADDRESS), "java_none", 0);
    assertTrue(error.is(ErrorReason.ERROR_REASON_PARAMETER_OUT_OF_RANGE));
    assertEquals("limit", error.field().orElseThrow());
  }

  @Test
  void aGatewayThatIsAwayIsToldAsSuch() {
    SentinelException error = failure(SentinelClient.connect("127.0.0.1:1"), "none", 1);
    assertEquals(SentinelException.UNREACHABLE, error.reason());
    assertTrue(error.isRetryable());
  }

  private static ClientBuilder secure() throws IOException {
    return SentinelClient.builder(Live.variable("SENTINEL_TEST_SECURE_ADDRESS"))
        .tls(Path.of(Live.variable("SENTINEL_TEST_CA")));
  }

  @Test
  void callsOverTlsWithAKey() throws IOException {
    try (SentinelClient client =
        secure().apiKey(Live.variable("SENTINEL_TEST_API_KEY")).build()) {
      var caller = AccessServiceGrpc.newBlockingStub(client.channel());
      assertFalse(caller.getCaller(GetCallerRequest.getDefaultInstance()).getId().isEmpty());
      String collection = Live.collection(client, "secure");
      try (Ingest results = client.ingest(collection, List.of(Live.note(1)).iterator())) {
        assertTrue(results.next().isStored());
      }
    }
  }

  @Test
  void aCallWithoutAKeyIsRefused() throws IOException {
    SentinelException error = failure(secure().build(), "none", 1);
    assertEquals(Status.Code.UNAUTHENTICATED, error.code());
    assertEquals("CREDENTIALS_MISSING", error.reason());
  }

  @Test
  void aCertificateOfAnotherCaIsNotTrusted() {
    SentinelClient client =
        SentinelClient.builder(Live.variable("SENTINEL_TEST_SECURE_ADDRESS")).tls().build();
    assertEquals(SentinelException.UNREACHABLE, failure(client, "none", 1).reason());
  }

  @Test
  void aCertificateMustHaveTheNameOfItsHost() throws IOException {
    SentinelClient client = secure().serverName("another.example").build();
    assertEquals(SentinelException.UNREACHABLE, failure(client, "none", 1).reason());
  }

  @Test
  void aKeyIsNotSentToAnotherMachineWithoutTls() {
    ClientBuilder builder = SentinelClient.builder("gateway.example:50050").apiKey("sen_key");
    assertThrows(IllegalArgumentException.class, builder::build);
    builder.tls().build().close();
  }
}
