/** What a failed call, or a failed item of a batch, throws or carries. */

import { status as Code, type Metadata, type ServiceError } from "@grpc/grpc-js";
import { fromBinary } from "@bufbuild/protobuf";
import { anyUnpack } from "@bufbuild/protobuf/wkt";

import {
  BadRequestSchema,
  ErrorInfoSchema,
  RetryInfoSchema,
} from "./gen/typescript/google/rpc/error_details_pb.js";
import { StatusSchema, type Status } from "./gen/typescript/google/rpc/status_pb.js";
import { ErrorReason } from "./gen/typescript/sentinel/common/v1/error_reason_pb.js";

export { Code };

/**
 * Why a call or an item failed: a reason of the contract, or one of this client:
 *
 * - `UNREACHABLE`: no gateway answers at the address, or the connection broke.
 * - `OUT_OF_TIME`: the deadline passed; the contract has the same reason.
 * - `RESULT_TRUNCATED`: a stream of hits ended before its summary.
 * - `FILE_UNREADABLE`, `ITEM_INVALID`: the item was not sent.
 * - `UNKNOWN`: the error is not Sentinel's, but that of a proxy or of gRPC.
 *
 * A newer gateway may have reasons that are not listed here.
 */
export type Reason =
  | Exclude<keyof typeof ErrorReason, "UNSPECIFIED">
  | "UNREACHABLE"
  | "RESULT_TRUNCATED"
  | "FILE_UNREADABLE"
  | "ITEM_INVALID"
  | "UNKNOWN"
  | (string & {});

/** A field of the request that is wrong: its path, such as `items[3].image.data`, and how. */
export interface FieldViolation {
  field: string;
  description: string;
}

/** What an error carries besides code, reason and message. */
export interface ErrorDetails {
  metadata?: Record<string, string>;
  retryAfterMs?: number | undefined;
  fieldViolations?: FieldViolation[];
  requestId?: string;
  cause?: unknown;
}

const DETAILS_KEY = "grpc-status-details-bin";
const DOMAIN = "sentinel";

/** A failed call, or one failed item of a batch. */
export class SentinelError extends Error {
  override readonly name = "SentinelError";
  /** The gRPC status code. */
  readonly code: Code;
  /** The reason, for programs. */
  readonly reason: Reason;
  /** Short strings for programs, such as `{limit: "64"}`. */
  readonly metadata: Readonly<Record<string, string>>;
  /** Milliseconds to wait before a retry; undefined if the server gave none. */
  readonly retryAfterMs: number | undefined;
  /** The fields of the request with the error. */
  readonly fieldViolations: readonly FieldViolation[];
  /** The call's `x-request-id`, which is in the servers' logs, too; empty for an item. */
  readonly requestId: string;

  constructor(code: Code, reason: Reason, message: string, details: ErrorDetails = {}) {
    super(`${message} [${reason}]`, { cause: details.cause });
    this.code = code;
    this.reason = reason;
    this.metadata = details.metadata ?? {};
    this.retryAfterMs = details.retryAfterMs;
    this.fieldViolations = details.fieldViolations ?? [];
    this.requestId = details.requestId ?? "";
  }

  /** Whether the same call, or the same item, may succeed later. */
  get retryable(): boolean {
    // Without a pause, RESOURCE_EXHAUSTED is a limit that does not go away, such as a size.
    return (
      this.code === Code.UNAVAILABLE ||
      (this.code === Code.RESOURCE_EXHAUSTED && this.retryAfterMs !== undefined)
    );
  }
}

/** Convert a `google.rpc.Status`. */
export function fromStatus(status: Status, more: ErrorDetails = {}): SentinelError {
  let reason: Reason = "UNKNOWN";
  const details: ErrorDetails = { ...more };
  for (const detail of status.details) {
    const info = anyUnpack(detail, ErrorInfoSchema);
    if (info?.domain === DOMAIN) {
      reason = info.reason;
      details.metadata = info.metadata;
    }
    const delay = anyUnpack(detail, RetryInfoSchema)?.retryDelay;
    if (delay !== undefined) {
      details.retryAfterMs = Number(delay.seconds) * 1000 + delay.nanos / 1e6;
    }
    const request = anyUnpack(detail, BadRequestSchema);
    if (request !== undefined) {
      details.fieldViolations = request.fieldViolations.map(({ field, description }) => ({
        field,
        description,
      }));
    }
  }
  return new SentinelError(status.code, reason, status.message || nameOf(status.code), details);
}

/** Convert an error of grpc-js. */
export function fromServiceError(
  error: ServiceError,
  address: string,
  requestId: string,
): SentinelError {
  const more: ErrorDetails = { requestId, cause: error };
  const status = statusDetails(error.metadata);
  // Details with another code than the call's are not about this failure.
  if (status?.code === error.code) {
    return fromStatus(status, more);
  }
  if (error.code === Code.UNAVAILABLE || error.code === Code.CANCELLED) {
    // The caller's own cancellation never gets here, so a server or a proxy ended the call.
    const message = `no gateway answers at ${address} (${error.details || "no details"})`;
    return new SentinelError(Code.UNAVAILABLE, "UNREACHABLE", message, more);
  }
  if (error.code === Code.DEADLINE_EXCEEDED) {
    const message = `${address} did not answer in time; use a longer timeout`;
    return new SentinelError(error.code, "OUT_OF_TIME", message, more);
  }
  return new SentinelError(error.code, "UNKNOWN", error.details || nameOf(error.code), more);
}

/** The error of a stream of hits, or of an image, that ended early. */
export function truncated(message: string): SentinelError {
  return new SentinelError(Code.INTERNAL, "RESULT_TRUNCATED", message);
}

function statusDetails(metadata: Metadata | undefined): Status | undefined {
  const [value] = metadata?.get(DETAILS_KEY) ?? [];
  if (!Buffer.isBuffer(value)) {
    return undefined;
  }
  try {
    return fromBinary(StatusSchema, value);
  } catch {
    return undefined; // not from Sentinel
  }
}

function nameOf(code: number): string {
  return Code[code] ?? `status ${code}`;
}
