package sentinel.client;

import io.grpc.Channel;
import io.grpc.ClientInterceptors;
import io.grpc.ManagedChannel;
import io.grpc.StatusRuntimeException;
import java.time.Duration;
import java.util.Iterator;
import java.util.List;
import java.util.concurrent.TimeUnit;
import java.util.function.Supplier;
import sentinel.common.v1.Content;
import sentinel.common.v1.ErrorReason;
import sentinel.search.v1.Collection;
import sentinel.search.v1.CollectionServiceGrpc;
import sentinel.search.v1.CreateCollectionRequest;
import sentinel.search.v1.FieldSchema;
import sentinel.search.v1.Filter;
import sentinel.search.v1.GetCollectionRequest;
import sentinel.search.v1.GetItemsRequest;
import sentinel.search.v1.Item;
import sentinel.search.v1.ItemResult;
import sentinel.search.v1.ItemServiceGrpc;
import sentinel.search.v1.Query;
import sentinel.search.v1.SearchParams;
import sentinel.search.v1.SearchRequest;
import sentinel.search.v1.SearchServiceGrpc;
import sentinel.search.v1.UpsertItemsRequest;

/**
 * A client of one or more gateways. Many threads may share it.
 *
 * <p>Each call has a deadline and goes to the next gateway in turn. If a gateway is away, the call is
 * repeated at another one, if that is safe. All methods throw {@link SentinelException}. {@link
 * #channel} is for calls that have no method here.
 */
public final class SentinelClient implements AutoCloseable {
  static final int MAX_MESSAGE_BYTES = 64 * 1024 * 1024;
  private static final Duration ACK_TIMEOUT = Duration.ofSeconds(120);
  private static final int CLOSE_SECONDS = 5;

  private final ManagedChannel connection;
  private final CallDefaults defaults;
  private final Channel channel;

  SentinelClient(ManagedChannel connection, CallDefaults defaults) {
    this.connection = connection;
    this.defaults = defaults;
    this.channel = ClientInterceptors.intercept(connection, defaults);
  }

  /** Returns a client of gateways without TLS and keys, such as {@code 127.0.0.1:50050}. */
  public static SentinelClient connect(String... addresses) {
    return builder(addresses).build();
  }

  /**
   * Returns a builder for TLS, a key, or another timeout.
   *
   * @param addresses {@code host:port} of each gateway. A host name may have several addresses.
   */
  public static ClientBuilder builder(String... addresses) {
    return new ClientBuilder(List.of(addresses));
  }

  /**
   * Returns the same client with another timeout for each call, retries included. For an ingest, it
   * is the time to wait for any acknowledgement. Both share the connections: close one of them.
   */
  public SentinelClient withTimeout(Duration timeout) {
    return new SentinelClient(connection, new CallDefaults(defaults.apiKey(), timeout));
  }

  /**
   * Returns the channel, for generated stubs, such as
   * {@code EmbeddingServiceGrpc.newBlockingStub(client.channel())}. Calls have the same deadlines,
   * retries and key. Stubs throw StatusRuntimeException; {@link SentinelException#of} converts it.
   */
  public Channel channel() {
    return channel;
  }

  /**
   * Searches for a text or an image.
   *
   * @param limit most hits, 1 to 10,000
   */
  public Hits search(String collection, Content content, int limit) {
    return search(params(collection, content), limit);
  }

  /**
   * Searches the items that a filter selects.
   *
   * @param filter one of {@link Filters}
   * @param limit most hits, 1 to 10,000
   */
  public Hits search(String collection, Content content, Filter filter, int limit) {
    return search(params(collection, content).setFilter(filter), limit);
  }

  private Hits search(SearchParams.Builder params, int limit) {
    return search(SearchRequest.newBuilder().setParams(params).setLimit(limit).build());
  }

  private static SearchParams.Builder params(String collection, Content content) {
    return SearchParams.newBuilder()
        .setCollection(collection)
        .setQuery(Query.newBuilder().setContent(content));
  }

  /** Searches with other queries, and all else that a request can say. */
  public Hits search(SearchRequest request) {
    return new Hits(() -> SearchServiceGrpc.newBlockingStub(channel).search(request));
  }

  /**
   * Stores a batch; a bad item never fails the others.
   *
   * @param items 1 to 256 items; {@link #ingest} takes any number
   * @return one result per item, in order; {@code SentinelException.of(result.getError())} tells why
   *     an item failed
   */
  public List<ItemResult> upsert(String collection, Iterable<Item> items) {
    UpsertItemsRequest request =
        UpsertItemsRequest.newBuilder().setCollection(collection).addAllItems(items).build();
    return call(() -> ItemServiceGrpc.newBlockingStub(channel).upsertItems(request))
        .getResultsList();
  }

  /**
   * Stores any number of items, and yields one result for each. {@code items} is read in the thread
   * that reads the results, and no faster than the gateway stores.
   */
  public Ingest ingest(String collection, Iterator<Item> items) {
    Duration timeout = defaults.timeout() == null ? ACK_TIMEOUT : defaults.timeout();
    return new Ingest(
        () -> {
          connection.resetConnectBackoff(); // a gateway may be back
          return new IngestStream(ItemServiceGrpc.newStub(channel), collection);
        },
        items,
        timeout);
  }

  /**
   * Leaves out the items that are in the collection, by their ids. So an ingest that was stopped
   * continues: {@code client.ingest("photos", client.unstored("photos", items))}. Items without an
   * id get that of their content. Without bytes, as with a URI, they have none here: such items are
   * always sent.
   */
  public Iterator<Item> unstored(String collection, Iterator<Item> items) {
    return new Unstored(items, ids -> missingIds(collection, ids));
  }

  private List<String> missingIds(String collection, List<String> ids) {
    GetItemsRequest request =
        GetItemsRequest.newBuilder().setCollection(collection).addAllIds(ids).build();
    return call(() -> ItemServiceGrpc.newBlockingStub(channel).getItems(request))
        .getMissingIdsList();
  }

  /** Returns a collection; creates it, with these fields, if it does not exist. */
  public Collection getOrCreateCollection(String name, FieldSchema... fields) {
    var stub = CollectionServiceGrpc.newBlockingStub(channel);
    GetCollectionRequest get = GetCollectionRequest.newBuilder().setName(name).build();
    try {
      return call(() -> stub.getCollection(get)).getCollection();
    } catch (SentinelException error) {
      if (!error.is(ErrorReason.ERROR_REASON_COLLECTION_NOT_FOUND)) {
        throw error;
      }
    }
    Collection.Builder wanted =
        Collection.newBuilder().setName(name).addAllFields(List.of(fields));
    CreateCollectionRequest create =
        CreateCollectionRequest.newBuilder().setCollection(wanted).build();
    try {
      return call(() -> stub.createCollection(create)).getCollection();
    } catch (SentinelException error) {
      if (!error.is(ErrorReason.ERROR_REASON_COLLECTION_EXISTS)) {
        throw error;
      }
      return call(() -> stub.getCollection(get)).getCollection(); // another caller was faster
    }
  }

  private static <T> T call(Supplier<T> work) {
    try {
      return work.get();
    } catch (StatusRuntimeException error) {
      throw SentinelException.of(error);
    }
  }

  /** Waits up to five seconds for running calls, then ends them, and closes the connections. */
  @Override
  public void close() {
    connection.shutdown();
    try {
      connection.awaitTermination(CLOSE_SECONDS, TimeUnit.SECONDS);
    } catch (InterruptedException error) {
      Thread.currentThread().interrupt();
    } finally {
      connection.shutdownNow();
    }
  }
}
