package sentinel.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.google.protobuf.Any;
import com.google.rpc.ErrorInfo;
import com.google.rpc.Status;
import io.grpc.ManagedChannel;
import io.grpc.Server;
import io.grpc.inprocess.InProcessChannelBuilder;
import io.grpc.inprocess.InProcessServerBuilder;
import io.grpc.protobuf.StatusProto;
import io.grpc.stub.StreamObserver;
import java.io.IOException;
import java.util.Iterator;
import java.util.List;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.stream.IntStream;
import org.junit.jupiter.api.Test;
import sentinel.search.v1.IngestAck;
import sentinel.search.v1.IngestAdvice;
import sentinel.search.v1.IngestItemsRequest;
import sentinel.search.v1.IngestItemsResponse;
import sentinel.search.v1.Item;
import sentinel.search.v1.ItemServiceGrpc.ItemServiceImplBase;

/** An ingest whose items come so slowly that its gateway ends the streams. */
class StalledStreamTest {
  private final List<String> events = new CopyOnWriteArrayList<>();

  /** Takes one item in each stream, and then ends it, as a gateway does that waited in vain. */
  private final class Gateway extends ItemServiceImplBase {
    @Override
    public StreamObserver<IngestItemsRequest> ingestItems(
        StreamObserver<IngestItemsResponse> responses) {
      events.add("stream");
      IngestAdvice advice =
          IngestAdvice.newBuilder()
              .setSuggestedBatchSize(1)
              .setSuggestedBatchesInFlight(1)
              .build();
      responses.onNext(IngestItemsResponse.newBuilder().setAdvice(advice).build());
      return new StreamObserver<>() {
        @Override
        public void onNext(IngestItemsRequest request) {
          if (request.hasBatch()) {
            IngestAck ack =
                IngestAck.newBuilder().setSequence(request.getBatch().getSequence()).build();
            responses.onNext(IngestItemsResponse.newBuilder().setAck(ack).build());
            responses.onError(StatusProto.toStatusRuntimeException(stalled()));
          }
        }

        @Override
        public void onError(Throwable left) {}

        @Override
        public void onCompleted() {}
      };
    }
  }

  private static Status stalled() {
    ErrorInfo info =
        ErrorInfo.newBuilder().setDomain("sentinel").setReason("STREAM_STALLED").build();
    return Status.newBuilder()
        .setCode(io.grpc.Status.Code.DEADLINE_EXCEEDED.value())
        .setMessage("no message came within 600 s; open a new stream when there is more")
        .addDetails(Any.pack(info))
        .build();
  }

  @Test
  void theIngestGoesOnOverANewStreamWhenThereIsMore() throws IOException {
    String name = "stalled";
    Server server =
        InProcessServerBuilder.forName(name)
            .directExecutor()
            .addService(new Gateway())
            .build()
            .start();
    ManagedChannel channel = InProcessChannelBuilder.forName(name).directExecutor().build();
    Iterator<Item> items =
        IntStream.range(0, 3)
            .mapToObj(one -> Item.newBuilder().setId("item " + one).build())
            .peek(item -> events.add(item.getId()))
            .iterator();
    try (SentinelClient client = new SentinelClient(channel, new CallDefaults(null, null));
        Ingest results = client.ingest("notes", items)) {
      for (int i = 0; i < 3; i++) {
        IngestResult result = results.next();
        assertEquals("item " + i, result.item().getId());
        assertTrue(result.isStored());
      }
      assertFalse(results.hasNext());
    } finally {
      server.shutdownNow();
    }
    assertEquals(
        List.of("item 0", "stream", "item 1", "stream", "item 2", "stream"), List.copyOf(events));
  }
}
