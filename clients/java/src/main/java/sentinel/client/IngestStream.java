package sentinel.client;

import io.grpc.StatusRuntimeException;
import io.grpc.stub.ClientCallStreamObserver;
import io.grpc.stub.ClientResponseObserver;
import java.util.List;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import sentinel.search.v1.IngestBatch;
import sentinel.search.v1.IngestItemsRequest;
import sentinel.search.v1.IngestItemsResponse;
import sentinel.search.v1.IngestStart;
import sentinel.search.v1.Item;
import sentinel.search.v1.ItemServiceGrpc.ItemServiceStub;

/** One {@code IngestItems} stream. gRPC's threads queue what arrives; one other thread uses it. */
final class IngestStream {
  /** A message, or the end of the stream: with its error, or null for a regular end. */
  record Event(IngestItemsResponse message, StatusRuntimeException error) {
    boolean isEnd() {
      return message == null;
    }
  }

  private final BlockingQueue<Event> events = new LinkedBlockingQueue<>();
  private ClientCallStreamObserver<IngestItemsRequest> requests;
  private boolean isHalfClosed;

  IngestStream(ItemServiceStub stub, String collection) {
    stub.ingestItems(new Responses());
    IngestStart start = IngestStart.newBuilder().setCollection(collection).build();
    requests.onNext(IngestItemsRequest.newBuilder().setStart(start).build());
  }

  /** Sends a batch. {@code sequence} must increase within the stream. */
  void send(long sequence, List<Item> items) {
    IngestBatch batch = IngestBatch.newBuilder().setSequence(sequence).addAllItems(items).build();
    requests.onNext(IngestItemsRequest.newBuilder().setBatch(batch).build());
  }

  /** Sends no more. The gateway acknowledges what it has, and ends the stream. */
  void halfClose() {
    if (!isHalfClosed) {
      isHalfClosed = true;
      requests.onCompleted();
    }
  }

  boolean isHalfClosed() {
    return isHalfClosed;
  }

  /** Returns the next event; null if none arrives in time. */
  Event poll(long nanos) throws InterruptedException {
    return events.poll(nanos, TimeUnit.NANOSECONDS);
  }

  void cancel() {
    requests.cancel("the ingest was closed", null);
  }

  private final class Responses
      implements ClientResponseObserver<IngestItemsRequest, IngestItemsResponse> {
    @Override
    public void beforeStart(ClientCallStreamObserver<IngestItemsRequest> stream) {
      requests = stream;
    }

    @Override
    public void onNext(IngestItemsResponse message) {
      events.add(new Event(message, null));
    }

    @Override
    public void onError(Throwable error) {
      events.add(new Event(null, (StatusRuntimeException) error));
    }

    @Override
    public void onCompleted() {
      events.add(new Event(null, null));
    }
  }
}
