package sentinel.client;

import io.grpc.Context;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import java.util.Collections;
import java.util.Iterator;
import java.util.NoSuchElementException;
import java.util.Optional;
import java.util.function.Supplier;
import sentinel.search.v1.Hit;
import sentinel.search.v1.SearchResponse;
import sentinel.search.v1.SearchSummary;

/**
 * The hits of one search, best first, as they arrive.
 *
 * <p>Read them once, in one thread. If you stop early, call {@link #close}, which ends the search.
 * Reading throws {@link SentinelException} if the search fails, or if the stream breaks off.
 */
public final class Hits implements Iterable<Hit>, Iterator<Hit>, AutoCloseable {
  private final Context.CancellableContext context = Context.current().withCancellation();
  private final Iterator<SearchResponse> messages;
  private Iterator<Hit> chunk = Collections.emptyIterator();
  private SearchSummary summary;

  Hits(Supplier<Iterator<SearchResponse>> call) {
    Context previous = context.attach();
    try {
      messages = call.get();
    } finally {
      context.detach(previous);
    }
  }

  @Override
  public boolean hasNext() {
    while (!chunk.hasNext() && summary == null) {
      SearchResponse message = nextMessage();
      chunk = message.getChunk().getHitsList().iterator();
      if (message.hasSummary()) {
        summary = message.getSummary();
      }
    }
    if (!chunk.hasNext()) {
      close();
      return false;
    }
    return true;
  }

  @Override
  public Hit next() {
    if (!hasNext()) {
      throw new NoSuchElementException("no more hits");
    }
    return chunk.next();
  }

  private SearchResponse nextMessage() {
    try {
      if (messages.hasNext()) {
        return messages.next();
      }
    } catch (StatusRuntimeException error) {
      close();
      throw SentinelException.of(error);
    }
    close();
    throw new SentinelException(
        Status.Code.INTERNAL,
        SentinelException.RESULT_TRUNCATED,
        "the stream of hits ended without its summary; search again");
  }

  /** Returns these hits, so that a {@code for} loop can read them. */
  @Override
  public Iterator<Hit> iterator() {
    return this;
  }

  /** The number of hits, the time of each stage, and notices; empty until the last hit was read. */
  public Optional<SearchSummary> summary() {
    return Optional.ofNullable(summary);
  }

  /** Ends the search. */
  @Override
  public void close() {
    context.cancel(null);
  }
}
