package sentinel.client;

import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.ProtoUtils;
import java.time.Duration;
import java.util.Collections;
import java.util.HashMap;
import java.util.Map;
import java.util.Optional;
import sentinel.common.v1.ErrorReason;

/**
 * A failed call, or one failed item of a batch.
 *
 * <p>The message says what is wrong and what to do about it. {@link #reason} is for programs.
 */
public final class SentinelException extends RuntimeException {
  /** No gateway answers at any address, or the connection broke. */
  public static final String UNREACHABLE = "UNREACHABLE";

  /** The deadline passed. */
  public static final String OUT_OF_TIME = "OUT_OF_TIME";

  /** A stream of hits ended without its summary, so hits may be missing. */
  public static final String RESULT_TRUNCATED = "RESULT_TRUNCATED";

  /** The error is not from Sentinel, but from a proxy or from gRPC. */
  public static final String UNKNOWN = "UNKNOWN";

  private static final long serialVersionUID = 1;
  private static final String DOMAIN = "sentinel";
  private static final Metadata.Key<com.google.rpc.Status> DETAILS =
      Metadata.Key.of(
          "grpc-status-details-bin",
          ProtoUtils.metadataMarshaller(com.google.rpc.Status.getDefaultInstance()));

  private final Status.Code code;
  private final String reason;
  private final String requestId;
  private final HashMap<String, String> metadata;
  private final String field;
  private final Duration retryDelay;

  SentinelException(Status.Code code, String reason, String message) {
    this(code, message, reason, Map.of(), null, null, "", null);
  }

  private SentinelException(
      Status.Code code,
      String message,
      String reason,
      Map<String, String> metadata,
      String field,
      Duration retryDelay,
      String requestId,
      Throwable cause) {
    super(message + " [" + reason + "]", cause);
    this.code = code;
    this.reason = reason;
    this.metadata = new HashMap<>(metadata);
    this.field = field;
    this.retryDelay = retryDelay;
    this.requestId = requestId;
  }

  /** Converts what a generated stub throws. */
  public static SentinelException of(StatusRuntimeException error) {
    Metadata trailers = error.getTrailers() == null ? new Metadata() : error.getTrailers();
    String requestId = Optional.ofNullable(trailers.get(CallDefaults.REQUEST_ID)).orElse("");
    Status status = error.getStatus();
    com.google.rpc.Status details = details(trailers);
    // Details with another code than the call's are not about this failure.
    if (details != null && details.getCode() == status.getCode().value()) {
      return of(details, requestId, error);
    }
    String cause = Optional.ofNullable(status.getDescription()).orElse("no details");
    String reason =
        switch (status.getCode()) {
          case UNAVAILABLE, CANCELLED -> UNREACHABLE;
          case DEADLINE_EXCEEDED -> OUT_OF_TIME;
          default -> UNKNOWN;
        };
    String message =
        switch (reason) {
          case UNREACHABLE -> "no gateway answers (" + cause + "); check the address and try again";
          case OUT_OF_TIME -> "no answer in time; use a longer timeout (" + cause + ")";
          default -> cause;
        };
    return new SentinelException(
        status.getCode(), message, reason, Map.of(), null, null, requestId, error);
  }

  /** Converts the error of one item, such as {@code ItemResult.error}. */
  public static SentinelException of(com.google.rpc.Status status) {
    return of(status, "", null);
  }

  private static SentinelException of(
      com.google.rpc.Status status, String requestId, Throwable cause) {
    ErrorInfo info = detail(status, ErrorInfo.class).orElse(ErrorInfo.getDefaultInstance());
    BadRequest request = detail(status, BadRequest.class).orElse(BadRequest.getDefaultInstance());
    Duration delay =
        detail(status, RetryInfo.class)
            .map(RetryInfo::getRetryDelay)
            .map(one -> Duration.ofSeconds(one.getSeconds(), one.getNanos()))
            .orElse(null);
    String field = info.getMetadataMap().get("field");
    if (field == null && request.getFieldViolationsCount() > 0) {
      field = request.getFieldViolations(0).getField();
    }
    boolean isOurs = info.getDomain().equals(DOMAIN) && !info.getReason().isEmpty();
    return new SentinelException(
        Status.fromCodeValue(status.getCode()).getCode(),
        status.getMessage(),
        isOurs ? info.getReason() : UNKNOWN,
        info.getMetadataMap(),
        field,
        delay,
        requestId,
        cause);
  }

  private static com.google.rpc.Status details(Metadata trailers) {
    try {
      return trailers.get(DETAILS);
    } catch (IllegalArgumentException notAStatus) {
      return null;
    }
  }

  private static <T extends com.google.protobuf.Message> Optional<T> detail(
      com.google.rpc.Status status, Class<T> type) {
    for (Any any : status.getDetailsList()) {
      if (any.is(type)) {
        try {
          return Optional.of(any.unpack(type));
        } catch (InvalidProtocolBufferException damaged) {
          return Optional.empty();
        }
      }
    }
    return Optional.empty();
  }

  /** The gRPC status code. */
  public Status.Code code() {
    return code;
  }

  /**
   * The reason: a name of {@link ErrorReason} without its prefix, such as
   * {@code COLLECTION_NOT_FOUND}, or a constant of this class.
   */
  public String reason() {
    return reason;
  }

  /** Whether this is the reason. */
  public boolean is(ErrorReason one) {
    return one.name().equals("ERROR_REASON_" + reason);
  }

  /** Short strings for programs, such as {@code limit=64}. */
  public Map<String, String> metadata() {
    return Collections.unmodifiableMap(metadata);
  }

  /** The path of the request's field with the error, such as {@code items[3].content}. */
  public Optional<String> field() {
    return Optional.ofNullable(field);
  }

  /** How long the server asks to wait before the next attempt. */
  public Optional<Duration> retryDelay() {
    return Optional.ofNullable(retryDelay);
  }

  /** The call's {@code x-request-id}, which the servers' logs have too; empty for an item. */
  public String requestId() {
    return requestId;
  }

  /** Whether the same call may succeed later. */
  public boolean isRetryable() {
    // Without a delay, RESOURCE_EXHAUSTED is a limit, not a queue.
    return switch (code) {
      case UNAVAILABLE -> true;
      case CANCELLED -> reason.equals(UNREACHABLE);
      case RESOURCE_EXHAUSTED -> retryDelay != null;
      default -> false;
    };
  }
}
