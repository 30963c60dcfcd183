package sentinel.client;

import io.grpc.Status;
import java.time.Duration;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Deque;
import java.util.HashMap;
import java.util.Iterator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.NoSuchElementException;
import java.util.Queue;
import java.util.concurrent.CancellationException;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;
import java.util.function.Supplier;
import sentinel.client.Batches.Batch;
import sentinel.common.v1.ErrorReason;
import sentinel.search.v1.IngestAck;
import sentinel.search.v1.IngestAdvice;
import sentinel.search.v1.IngestItemsResponse;
import sentinel.search.v1.Item;

/**
 * Stores any number of items over {@code IngestItems} streams; yields one result for each item.
 *
 * <p>All work is done in the thread that asks for results: it reads items, sends as many batches as
 * the gateway advises, and waits for acknowledgements. If a stream is lost or idle for too long, or
 * its gateway shuts down, the ingest goes on at the next gateway with what was not acknowledged. An
 * item sent twice changes nothing. It gives up after five attempts in a row that stored nothing.
 *
 * <pre>
 *   items ──▶ ready ──send──▶ in flight ──acknowledgement──▶ results ──▶ the caller
 *               ▲                 │
 *               └── lost stream ──┴── failed for a temporary reason (after a pause)
 * </pre>
 */
public final class Ingest implements Iterator<IngestResult>, AutoCloseable {
  private static final int MAX_ATTEMPTS = 5;
  private static final Duration INITIAL_BACKOFF = Duration.ofMillis(200);
  private static final Duration MAX_BACKOFF = Duration.ofSeconds(5);

  private final Supplier<IngestStream> open;
  private final long ackTimeoutNanos;
  private final Queue<IngestResult> results = new ArrayDeque<>();
  private final Batches batches;
  private final Deque<Batch> ready = new ArrayDeque<>();
  private final List<Batch> pausing = new ArrayList<>();
  private final Map<Long, Batch> inFlight = new LinkedHashMap<>(); // by sequence number
  private IngestStream stream;
  private int maxInFlight; // 0 until the first message, which is the gateway's advice
  private long sequence;
  private long lastProgress;
  private int attempts;
  private boolean isExhausted;
  private boolean isClosed;

  /**
   * Starts with the first call of {@link #hasNext}.
   *
   * @param open opens a stream on the next gateway
   * @param ackTimeout how long to wait for any acknowledgement
   */
  Ingest(Supplier<IngestStream> open, Iterator<Item> items, Duration ackTimeout) {
    this.open = open;
    this.ackTimeoutNanos = ackTimeout.toNanos();
    this.batches = new Batches(items, results);
  }

  /**
   * Waits for the next result.
   *
   * @throws SentinelException the ingest cannot go on; what was acknowledged is stored. Another call
   *     tries again.
   */
  @Override
  public boolean hasNext() {
    while (results.isEmpty()) {
      try {
        if (!step()) {
          return false;
        }
      } catch (SentinelException error) {
        recover(error);
      }
    }
    return true;
  }

  @Override
  public IngestResult next() {
    if (!hasNext()) {
      throw new NoSuchElementException("each item has its result");
    }
    return results.remove();
  }

  /** Sends what may be sent and handles one event; returns false when each item has its result. */
  private boolean step() {
    if (isClosed) {
      return false;
    }
    if (stream == null && ready.isEmpty() && pausing.isEmpty()) {
      isExhausted = !batches.hasNext();
    }
    if (stream == null && !isFinished()) {
      lastProgress = System.nanoTime();
      maxInFlight = 0;
      stream = open.get();
    }
    send();
    if (isFinished()) {
      end();
      return !results.isEmpty();
    }
    if (results.isEmpty()) {
      receive();
    }
    return true;
  }

  private boolean isFinished() {
    return isExhausted && ready.isEmpty() && pausing.isEmpty() && inFlight.isEmpty();
  }

  private void end() {
    if (stream != null) {
      stream.halfClose();
      stream = null;
    }
    if (results.isEmpty() && batches.failure() != null) {
      throw batches.failure();
    }
  }

  private void send() {
    long now = System.nanoTime();
    pausing.removeIf(batch -> batch.dueNanos() - now <= 0 && ready.add(batch));
    while (stream != null && !stream.isHalfClosed() && inFlight.size() < maxInFlight) {
      Batch batch = ready.isEmpty() ? batches.next() : ready.remove();
      if (batch == null) {
        isExhausted = true;
        return;
      }
      if (inFlight.isEmpty()) {
        lastProgress = System.nanoTime();
      }
      sequence++;
      inFlight.put(sequence, batch);
      stream.send(sequence, batch.items());
    }
  }

  private void receive() {
    long now = System.nanoTime();
    boolean waitsOnlyForPause = maxInFlight > 0 && inFlight.isEmpty();
    long timeout = waitsOnlyForPause ? ackTimeoutNanos : lastProgress + ackTimeoutNanos - now;
    long pause =
        pausing.stream().mapToLong(batch -> batch.dueNanos() - now).min().orElse(Long.MAX_VALUE);
    IngestStream.Event event;
    try {
      event = stream.poll(Math.max(0, Math.min(timeout, pause)));
    } catch (InterruptedException error) {
      close();
      Thread.currentThread().interrupt();
      throw new CancellationException("interrupted; what was acknowledged is stored");
    }
    if (event != null) {
      handle(event);
    } else if (timeout <= pause) {
      throw new SentinelException(
          Status.Code.DEADLINE_EXCEEDED,
          SentinelException.OUT_OF_TIME,
          "nothing was acknowledged for "
              + TimeUnit.NANOSECONDS.toSeconds(ackTimeoutNanos)
              + " s; use a longer timeout");
    }
  }

  private void handle(IngestStream.Event event) {
    if (event.error() != null) {
      throw SentinelException.of(event.error());
    }
    if (event.isEnd()) {
      throw new SentinelException(
          Status.Code.UNAVAILABLE,
          SentinelException.UNREACHABLE,
          "the gateway ended the stream early; continue on another one");
    }
    IngestItemsResponse message = event.message();
    lastProgress = System.nanoTime();
    switch (message.getMessageCase()) {
      case ADVICE -> follow(message.getAdvice());
      case ACK -> acknowledge(message.getAck());
      default -> {}
    }
  }

  private void follow(IngestAdvice advice) {
    maxInFlight = Math.max(1, advice.getSuggestedBatchesInFlight());
    batches.advise(advice.getSuggestedBatchSize());
    if (advice.getDraining()) {
      stream.halfClose(); // the gateway acknowledges what it has, and then ends the stream
    }
  }

  private void acknowledge(IngestAck ack) {
    Batch batch = inFlight.remove(ack.getSequence());
    if (batch == null || ack.getFailuresCount() != ack.getFailurePlacesCount()) {
      throw new SentinelException(
          Status.Code.INTERNAL,
          "INTERNAL",
          "the gateway's acknowledgement of batch " + ack.getSequence() + " is invalid");
    }
    attempts = 0;
    Map<Integer, SentinelException> errors = new HashMap<>();
    for (int i = 0; i < ack.getFailuresCount(); i++) {
      SentinelException error = SentinelException.of(ack.getFailures(i).getError());
      errors.put(ack.getFailurePlaces(i), error);
    }
    List<Item> again = new ArrayList<>();
    Duration pause = Duration.ZERO;
    for (int i = 0; i < batch.items().size(); i++) {
      Item item = batch.items().get(i);
      SentinelException error = errors.get(i);
      if (error != null && error.isRetryable() && batch.attempt() < MAX_ATTEMPTS) {
        again.add(item);
        Duration asked = backoff(batch.attempt(), error);
        pause = asked.compareTo(pause) > 0 ? asked : pause;
      } else {
        String digest = i < ack.getDigestsCount() ? ack.getDigests(i) : "";
        results.add(new IngestResult(item, error, digest));
      }
    }
    if (!again.isEmpty()) {
      long due = System.nanoTime() + pause.toNanos();
      pausing.add(new Batch(again, batch.attempt() + 1, due));
    }
  }

  /** Prepares the next stream after a pause, or throws {@code error} if there is none. */
  private void recover(SentinelException error) {
    cancelStream();
    List<Batch> unacknowledged = new ArrayList<>(inFlight.values());
    inFlight.clear();
    for (int i = unacknowledged.size() - 1; i >= 0; i--) {
      ready.addFirst(unacknowledged.get(i));
    }
    attempts++;
    if (!isTemporary(error) || attempts >= MAX_ATTEMPTS) {
      throw error;
    }
    try {
      Thread.sleep(backoff(attempts, error).toMillis());
    } catch (InterruptedException interrupted) {
      Thread.currentThread().interrupt();
      throw error;
    }
  }

  private static boolean isTemporary(SentinelException error) {
    // A gateway ends streams that send nothing for long, as when the items come slowly. The next
    // stream opens when there is something to send.
    return error.isRetryable() || error.is(ErrorReason.ERROR_REASON_STREAM_STALLED);
  }

  private static Duration backoff(int made, SentinelException error) {
    double seconds =
        Math.min(
            MAX_BACKOFF.toMillis() / 1e3,
            INITIAL_BACKOFF.toMillis() / 1e3 * Math.pow(2, made - 1.0));
    double chance = ThreadLocalRandom.current().nextDouble();
    // Never shorter than the gateway asks for. The chance keeps callers from coming all at once.
    double pause =
        error
            .retryDelay()
            .map(asked -> asked.toMillis() / 1e3)
            .map(asked -> asked + chance * Math.min(seconds, asked))
            .orElse(seconds * (0.5 + chance / 2));
    return Duration.ofMillis(Math.round(pause * 1e3));
  }

  /** Stops the ingest. What was acknowledged is stored; the rest may be. */
  @Override
  public void close() {
    isClosed = true;
    cancelStream();
  }

  private void cancelStream() {
    if (stream != null) {
      stream.cancel();
      stream = null;
    }
  }
}
