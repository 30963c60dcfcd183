package sentinel.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.grpc.CallOptions;
import io.grpc.Channel;
import io.grpc.ClientCall;
import io.grpc.ClientInterceptor;
import io.grpc.ClientInterceptors;
import io.grpc.ForwardingClientCall.SimpleForwardingClientCall;
import io.grpc.ForwardingClientCallListener.SimpleForwardingClientCallListener;
import io.grpc.Grpc;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.Iterator;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.stream.IntStream;
import org.junit.jupiter.api.MethodOrderer;
import org.junit.jupiter.api.Order;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestMethodOrder;
import sentinel.search.v1.AccessServiceGrpc;
import sentinel.search.v1.GetCallerRequest;
import sentinel.search.v1.Hit;
import sentinel.search.v1.Item;

/** Two gateways of one Milvus. The last test drains one of them, so the order matters. */
@TestMethodOrder(MethodOrderer.OrderAnnotation.class)
class GatewaysTest {
  private static final Path SWITCH = Path.of(Live.variable("SENTINEL_TEST_SWITCH"));

  /** Counts calls by the address that answered. */
  private static final class Answers implements ClientInterceptor {
    final Map<String, Integer> counts = new HashMap<>();

    @Override
    public <Q, R> ClientCall<Q, R> interceptCall(
        MethodDescriptor<Q, R> method, CallOptions options, Channel next) {
      return new SimpleForwardingClientCall<>(next.newCall(method, options)) {
        @Override
        public void start(Listener<R> listener, Metadata headers) {
          super.start(
              new SimpleForwardingClientCallListener<>(listener) {
                @Override
                public void onHeaders(Metadata received) {
                  var address = getAttributes().get(Grpc.TRANSPORT_ATTR_REMOTE_ADDR);
                  counts.merge(String.valueOf(address), 1, Integer::sum);
                  super.onHeaders(received);
                }
              },
              headers);
        }
      };
    }
  }

  @Test
  @Order(1)
  void callsAreBalancedOverTwoGateways() {
    Answers answers = new Answers();
    try (SentinelClient client = SentinelClient.connect(Live.addresses())) {
      var stub =
          AccessServiceGrpc.newBlockingStub(
              ClientInterceptors.intercept(client.channel(), answers));
      GetCallerRequest request = GetCallerRequest.getDefaultInstance();
      // The first calls may find only one connection ready.
      long end = System.nanoTime() + Duration.ofSeconds(20).toNanos();
      while (answers.counts.size() < 2 && System.nanoTime() < end) {
        stub.getCaller(request);
      }
      answers.counts.clear();
      for (int i = 0; i < 20; i++) {
        stub.getCaller(request);
      }
    }
    assertEquals(List.of(10, 10), List.copyOf(answers.counts.values()), answers.counts::toString);
  }

  /** Yields notes from {@code first} on, starts the drain, and ends some items after it is over. */
  private static final class NotesDuringDrain implements Iterator<Item> {
    private static final int BEFORE = 100;
    private static final int AFTER = 100;
    private final int first;
    private int count;
    private int left = AFTER;

    NotesDuringDrain(int first) {
      this.first = first;
    }

    @Override
    public boolean hasNext() {
      return left > 0;
    }

    @Override
    public Item next() {
      if (count == BEFORE) {
        touch(SWITCH.resolve("drain"));
      }
      if (Files.exists(SWITCH.resolve("drained"))) {
        left--;
      }
      return Live.note(first + count++);
    }

    List<String> ids() {
      return IntStream.range(first, first + count).mapToObj(one -> Live.note(one).getId()).toList();
    }

    private static void touch(Path file) {
      try {
        Files.write(file, new byte[0]);
      } catch (IOException error) {
        throw new IllegalStateException(error);
      }
    }
  }

  /** Ingests, and returns how many items have a result. */
  private static int ingest(Ingest results) {
    int count = 0;
    while (results.hasNext()) {
      IngestResult result = results.next();
      assertTrue(result.isStored(), () -> String.valueOf(result.error()));
      count++;
    }
    return count;
  }

  @Test
  @Order(2)
  void aDrainFailsNoCallAndLosesNothing() throws Exception {
    ExecutorService threads = Executors.newCachedThreadPool();
    try (SentinelClient client = SentinelClient.connect(Live.addresses())) {
      String collection = Live.collection(client, "drain");
      List<NotesDuringDrain> notes =
          List.of(new NotesDuringDrain(0), new NotesDuringDrain(1_000_000));
      List<Future<Integer>> ingests = new ArrayList<>();
      for (NotesDuringDrain items : notes) {
        Ingest results = client.ingest(collection, items);
        assertTrue(results.next().isStored()); // one stream after another: one on each gateway
        Callable<Integer> rest = () -> ingest(results);
        ingests.add(threads.submit(rest));
      }
      int searches = 0;
      while (!ingests.stream().allMatch(Future::isDone)) {
        try (Hits hits = client.search(collection, Contents.text("note " + searches), 3)) {
          hits.forEach((Hit hit) -> {});
        }
        searches++;
      }
      assertTrue(searches > 0);
      for (int i = 0; i < notes.size(); i++) {
        assertEquals(notes.get(i).ids().size(), ingests.get(i).get() + 1);
        assertEquals(List.of(), Live.missing(client, collection, notes.get(i).ids()));
      }
      assertTrue(Files.exists(SWITCH.resolve("drained")));
    } finally {
      threads.shutdownNow();
    }
  }
}
