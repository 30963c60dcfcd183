/** The channel to the gateways. Each call gets a deadline, a request id, the key and our errors. */

import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import {
  Client,
  Metadata,
  type CallOptions as GrpcOptions,
  type ServiceError,
} from "@grpc/grpc-js";
import type { ClientDuplexStream } from "@grpc/grpc-js";
import {
  create,
  fromBinary,
  toBinary,
  type DescMessage,
  type DescMethod,
  type DescMethodBiDiStreaming,
  type DescMethodServerStreaming,
  type DescMethodUnary,
  type MessageInitShape,
  type MessageShape,
} from "@bufbuild/protobuf";
import { MethodOptions_IdempotencyLevel as Idempotency } from "@bufbuild/protobuf/wkt";

import {
  channelCredentials,
  channelOptions,
  isRepeatable,
  resolveAddress,
  resolveApiKey,
  resolveTls,
  targetOf,
  type ClientOptions,
} from "./config.js";
import { fromServiceError, SentinelError } from "./errors.js";

/** The options of each call. */
export interface CallOptions {
  /** Milliseconds until the call fails with DEADLINE_EXCEEDED, retries included. */
  timeoutMs?: number | undefined;
  /** Ends the call; it then throws the signal's reason. */
  signal?: AbortSignal | undefined;
  /** Sent as `x-request-id`, which the servers log; default: a random one. */
  requestId?: string | undefined;
}

/** One call, with all its attempts. */
interface Call<I extends DescMessage, O extends DescMessage> {
  method: DescMethod & { input: I; output: O };
  request: MessageShape<I>;
  /** Milliseconds since 1970. */
  deadline: number;
  requestId: string;
  signal: AbortSignal | undefined;
}

const DRAINING_PAUSE_MS = 200;
const DEFAULT_READ_TIMEOUT_MS = 30_000;
const DEFAULT_WRITE_TIMEOUT_MS = 120_000;

/** One channel, which opens with its first call. */
export class Connection {
  readonly address: string;
  readonly #client: Client;
  readonly #apiKey: () => string;
  readonly #readTimeoutMs: number;
  readonly #writeTimeoutMs: number;

  constructor(options: ClientOptions) {
    this.address = resolveAddress(options.address);
    const tls = resolveTls(options.tls);
    this.#apiKey = resolveApiKey(options.apiKey, this.address, tls);
    this.#client = new Client(targetOf(this.address), channelCredentials(tls), {
      ...channelOptions(this.address, tls),
      ...(options.interceptors ? { interceptors: options.interceptors } : {}),
    });
    this.#readTimeoutMs = options.readTimeoutMs ?? DEFAULT_READ_TIMEOUT_MS;
    this.#writeTimeoutMs = options.writeTimeoutMs ?? DEFAULT_WRITE_TIMEOUT_MS;
  }

  /** Make a unary call. */
  async unary<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    request: MessageInitShape<I>,
    options: CallOptions = {},
  ): Promise<MessageShape<O>> {
    const call = this.#prepare(method, request, options);
    for (;;) {
      try {
        return await this.#unary(call);
      } catch (error) {
        await pauseIfDraining(error, call);
      }
    }
  }

  /** Yield the messages of a stream of responses; leaving the loop ends the call. */
  async *stream<I extends DescMessage, O extends DescMessage>(
    method: DescMethodServerStreaming<I, O>,
    request: MessageInitShape<I>,
    options: CallOptions = {},
  ): AsyncGenerator<MessageShape<O>, void, undefined> {
    const call = this.#prepare(method, request, options);
    let started = false;
    for (;;) {
      try {
        for await (const message of this.#stream(call)) {
          started = true;
          yield message;
        }
        return;
      } catch (error) {
        if (started) {
          throw error; // the caller may have used what came before
        }
        await pauseIfDraining(error, call);
      }
    }
  }

  /** Open a stream in both directions, without a deadline: the caller must end it. */
  duplex<I extends DescMessage, O extends DescMessage>(
    method: DescMethodBiDiStreaming<I, O>,
    requestId: string,
    options: GrpcOptions = {},
  ): ClientDuplexStream<MessageShape<I>, MessageShape<O>> {
    return this.#client.makeBidiStreamRequest(
      pathOf(method),
      serializer(method.input),
      deserializer(method.output),
      this.#metadata(requestId),
      options,
    );
  }

  /** Return the milliseconds that a call may take. */
  timeoutMs(method: DescMethod, options: CallOptions): number {
    const onlyReads = method.idempotency === Idempotency.NO_SIDE_EFFECTS;
    return options.timeoutMs ?? (onlyReads ? this.#readTimeoutMs : this.#writeTimeoutMs);
  }

  /** Close the channel; calls in flight end first. */
  close(): void {
    this.#client.close();
  }

  #prepare<I extends DescMessage, O extends DescMessage>(
    method: DescMethod & { input: I; output: O },
    request: MessageInitShape<I>,
    options: CallOptions,
  ): Call<I, O> {
    return {
      method,
      request: create(method.input, request),
      deadline: Date.now() + this.timeoutMs(method, options),
      requestId: options.requestId ?? randomUUID(),
      signal: options.signal,
    };
  }

  #unary<I extends DescMessage, O extends DescMessage>(call: Call<I, O>): Promise<MessageShape<O>> {
    const { method, signal } = call;
    signal?.throwIfAborted();
    return new Promise((resolve, reject) => {
      const abort = () => running.cancel();
      const running = this.#client.makeUnaryRequest(
        pathOf(method),
        serializer(method.input),
        deserializer(method.output),
        call.request,
        this.#metadata(call.requestId),
        { deadline: call.deadline },
        (error, response) => {
          signal?.removeEventListener("abort", abort);
          if (error === null) {
            resolve(response as MessageShape<O>);
          } else {
            reject(this.#convert(error, call));
          }
        },
      );
      signal?.addEventListener("abort", abort);
    });
  }

  async *#stream<I extends DescMessage, O extends DescMessage>(
    call: Call<I, O>,
  ): AsyncGenerator<MessageShape<O>, void, undefined> {
    const { method, signal } = call;
    signal?.throwIfAborted();
    const running = this.#client.makeServerStreamRequest(
      pathOf(method),
      serializer(method.input),
      deserializer(method.output),
      call.request,
      this.#metadata(call.requestId),
      { deadline: call.deadline },
    );
    const abort = () => running.cancel();
    signal?.addEventListener("abort", abort);
    running.on("error", () => {}); // that of our own `cancel` comes when nobody reads any more
    try {
      for await (const message of running) {
        yield message as MessageShape<O>;
      }
    } catch (error) {
      throw this.#convert(error as ServiceError, call);
    } finally {
      signal?.removeEventListener("abort", abort);
      running.cancel(); // has no effect on a call that has ended
    }
  }

  #metadata(requestId: string): Metadata {
    const metadata = new Metadata();
    metadata.set("x-request-id", requestId);
    const key = this.#apiKey();
    if (key !== "") {
      metadata.set("authorization", `Bearer ${key}`);
    }
    return metadata;
  }

  /** Return what to throw for an error of grpc-js. */
  #convert(error: ServiceError, { requestId, signal }: Call<DescMessage, DescMessage>): unknown {
    // An error without a code is a bug of the caller or ours, and keeps its own stack.
    if (signal?.aborted || typeof error.code !== "number") {
      return signal?.aborted ? signal.reason : error;
    }
    return fromServiceError(error, this.address, requestId);
  }
}

/**
 * Wait before another attempt if a gateway refused the call because it is being shut down; else
 * throw `error`.
 *
 * It refuses until the calls before have ended, maybe for 20 s. gRPC's five attempts can all meet
 * it, since round robin does not know what it is about to do.
 */
async function pauseIfDraining(
  error: unknown,
  { method, deadline, signal }: Call<DescMessage, DescMessage>,
): Promise<void> {
  const isDraining = error instanceof SentinelError && error.reason === "DRAINING";
  const pauseMs = DRAINING_PAUSE_MS * (0.5 + Math.random());
  if (!isDraining || !isRepeatable(method) || Date.now() + pauseMs >= deadline) {
    throw error;
  }
  await sleep(pauseMs, null, { signal }).catch(() => signal?.throwIfAborted());
}

function pathOf(method: DescMethod): string {
  return `/${method.parent.typeName}/${method.name}`;
}

function serializer<T extends DescMessage>(schema: T): (message: MessageShape<T>) => Buffer {
  return (message) => {
    const bytes = toBinary(schema, message);
    return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  };
}

function deserializer<T extends DescMessage>(schema: T): (bytes: Buffer) => MessageShape<T> {
  return (bytes) => fromBinary(schema, bytes);
}
