/**
 * Store any number of items over `IngestItems` streams until each has its result.
 *
 *     items ──read──▶ ready ──send──▶ in flight ──receive──▶ results ──▶ the caller
 *                       ▲                 │
 *                       └── lost stream ──┴── failed for a temporary reason (after a pause)
 *
 * Reading, sending and receiving run beside each other and share one state. Each tells the others
 * of a change.
 */

import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import type { ClientDuplexStream, ServiceError } from "@grpc/grpc-js";
import { create, type MessageInitShape } from "@bufbuild/protobuf";

import { MAX_ATTEMPTS, MIB } from "./config.js";
import type { Connection } from "./connection.js";
import { Code, fromServiceError, fromStatus, SentinelError, type Reason } from "./errors.js";
import {
  IngestItemsRequestSchema,
  ItemService,
  type IngestAck,
  type IngestItemsRequest,
  type IngestItemsResponse,
  type Item as ItemMessage,
} from "./gen/typescript/sentinel/search/v1/item_service_pb.js";
import type { Item, PreparedItem } from "./items.js";

/** The acknowledgement of one item. */
export interface IngestResult<T extends Item = Item> {
  /** The same object that was passed in. */
  item: T;
  /** Its id, given or derived; "" if it is unknown because the item failed. */
  id: string;
  /**
   * `stored`: it survives any crash, whether it was written now or before. `skipped`: with
   * `skipStored`, it was stored before. `failed`: `error` says why.
   */
  outcome: "stored" | "skipped" | "failed";
  error: SentinelError | undefined;
}

/** An item on its way to a batch. `storedAs`: the id under which it is stored already. */
export type Incoming<T extends Item> = PreparedItem<T> & { storedAs?: string };

export interface IngestJobOptions {
  collection: string;
  /** Most milliseconds between two messages of the gateway while batches are in flight. */
  ackTimeoutMs: number;
  signal: AbortSignal | undefined;
}

type Call = ClientDuplexStream<IngestItemsRequest, IngestItemsResponse>;
type Sendable<T extends Item> = { item: T; message: ItemMessage; size: number };
type Batch<T extends Item> = { sent: Sendable<T>[]; attempt: number };

/** One stream: how many batches the gateway takes at once, and whether it must or did end. */
interface Stream {
  maxInFlight: number; // 0 until the first message, which is the gateway's advice
  draining: boolean;
  ended: boolean;
  /** Ends the wait for a write that can no longer finish. */
  onEnd: () => void;
}

const MAX_BATCH_BYTES = 14 * MIB;
const DEFAULT_BATCH_ITEMS = 64;
// Stop sending while a slow caller has this much to read: results hold the caller's images.
const MAX_UNREAD_RESULTS = 1_024;
const MAX_UNREAD_BYTES = 64 * MIB;
const WATCH_EVERY_MS = 1_000;
const INITIAL_BACKOFF_MS = 200;
// The reason of a stream that sent nothing for too long: a new stream is welcome.
const STALLED: Reason = "STREAM_STALLED";

/** One call of `ingest`. Run it once. */
export class IngestJob<T extends Item> {
  readonly #connection: Connection;
  readonly #options: IngestJobOptions;
  readonly #requestId = randomUUID();
  readonly #stop = new AbortController();
  readonly #change = new Change();
  readonly #ready: Batch<T>[] = [];
  readonly #inFlight = new Map<bigint, Batch<T>>();
  readonly #results: { result: IngestResult<T>; size: number }[] = [];
  #unreadBytes = 0;
  #pausing = 0; // batches that wait before their next attempt
  #isRead = false; // all of `items`
  #sequence = 0n;
  #acknowledged = 0;
  #lastProgress = 0;
  #maxItems = 1; // every gateway takes this; the first advice raises it

  constructor(connection: Connection, options: IngestJobOptions) {
    this.#connection = connection;
    this.#options = options;
  }

  /** Yield the results, then throw what `items` or the last attempt threw. */
  async *run(items: AsyncIterable<Incoming<T>>): AsyncGenerator<IngestResult<T>, void, undefined> {
    const { signal } = this.#options;
    signal?.throwIfAborted();
    const abort = () => this.#end();
    signal?.addEventListener("abort", abort);
    let isSent = false;
    const reading = this.#read(items);
    const sending = this.#runStreams().finally(() => {
      isSent = true;
      this.#change.notify();
    });
    // Awaited below; without this, Node.js would end the process if the caller leaves first.
    reading.catch(() => {});
    sending.catch(() => {});
    try {
      for (;;) {
        for (let next = this.#results.shift(); next; next = this.#results.shift()) {
          yield next.result;
          this.#unreadBytes -= next.size;
          this.#change.notify();
        }
        if (isSent) {
          break;
        }
        await this.#change.next();
      }
      await sending;
      await reading;
    } catch (error) {
      throw signal?.aborted ? signal.reason : error;
    } finally {
      signal?.removeEventListener("abort", abort);
      this.#end();
      // Not `reading`: the caller's iterator may wait for something that never comes.
      await sending.catch(() => {});
    }
  }

  get #isFinished(): boolean {
    return this.#isRead && this.#ready.length + this.#inFlight.size + this.#pausing === 0;
  }

  get #readerIsBehind(): boolean {
    return this.#results.length >= MAX_UNREAD_RESULTS || this.#unreadBytes >= MAX_UNREAD_BYTES;
  }

  #end(): void {
    this.#stop.abort();
    this.#change.notify();
  }

  /** Group items into batches; keep one ready and no more, because it is held in memory. */
  async #read(items: AsyncIterable<Incoming<T>>): Promise<void> {
    let sent: Sendable<T>[] = [];
    let bytes = 0;
    const offer = async () => {
      await this.#until(() => this.#ready.length === 0 && !this.#readerIsBehind);
      this.#ready.push({ sent, attempt: 1 });
      [sent, bytes] = [[], 0];
      this.#change.notify();
    };
    try {
      for await (const { item, message, size, storedAs } of items) {
        if (message instanceof SentinelError || storedAs !== undefined) {
          await this.#until(() => !this.#readerIsBehind);
          const error = message instanceof SentinelError ? message : undefined;
          const outcome = error ? "failed" : "skipped";
          this.#push({ item, id: storedAs ?? item.id ?? "", outcome, error }, size);
          continue;
        }
        if (sent.length > 0 && bytes + size > MAX_BATCH_BYTES) {
          await offer();
        }
        sent.push({ item, message, size });
        bytes += size;
        if (sent.length >= this.#maxItems) {
          await offer();
        }
      }
    } finally {
      // Also after an error of `items`: what came before it gets its results.
      if (sent.length > 0 && !this.#stop.signal.aborted) {
        await offer();
      }
      this.#isRead = true;
      this.#change.notify();
    }
  }

  /** Run one stream after another until nothing is left. */
  async #runStreams(): Promise<void> {
    let attempt = 1;
    let before = this.#acknowledged;
    let since = performance.now();
    for (;;) {
      const idleSince = performance.now();
      if (!(await this.#hasWork())) {
        return;
      }
      since += performance.now() - idleSince;
      try {
        await this.#runStream();
      } catch (error) {
        if (this.#acknowledged > before) {
          [attempt, before, since] = [1, this.#acknowledged, performance.now()];
        }
        const isTemporary =
          error instanceof SentinelError && (error.retryable || error.reason === STALLED);
        if (!isTemporary || attempt >= MAX_ATTEMPTS || this.#stop.signal.aborted) {
          throw error;
        }
        await sleep(backoffMs(attempt, error.retryAfterMs), null, { signal: this.#stop.signal });
        // A gateway that is being shut down may refuse more often, as round robin comes back to it.
        const isLate = performance.now() - since > this.#options.ackTimeoutMs;
        attempt += error.reason === "DRAINING" && !isLate ? 0 : 1;
      }
    }
  }

  /**
   * Wait until something can be sent; return false if nothing is left. Gateways end streams that
   * send nothing.
   */
  async #hasWork(): Promise<boolean> {
    const hasBatch = () => this.#ready.length + this.#inFlight.size > 0;
    await this.#until(() => this.#isFinished || (hasBatch() && !this.#readerIsBehind));
    return !this.#isFinished;
  }

  async #runStream(): Promise<void> {
    this.#ready.unshift(...this.#inFlight.values());
    this.#inFlight.clear();
    const call: Call = this.#connection.duplex(ItemService.method.ingestItems, this.#requestId);
    const stream: Stream = { maxInFlight: 0, draining: false, ended: false, onEnd: () => {} };
    const cancel = () => call.cancel();
    this.#stop.signal.addEventListener("abort", cancel);
    call.on("error", () => {}); // that of our own `cancel` comes when nobody reads any more
    let isLate = false;
    this.#lastProgress = performance.now();
    const watch = setInterval(
      () => {
        const waits = this.#inFlight.size > 0 || stream.maxInFlight === 0;
        isLate = waits && performance.now() - this.#lastProgress > this.#options.ackTimeoutMs;
        if (isLate) {
          call.cancel();
        }
      },
      Math.min(WATCH_EVERY_MS, this.#options.ackTimeoutMs),
    );
    const sending = this.#send(call, stream);
    try {
      for await (const response of call) {
        this.#receive(response as IngestItemsResponse, stream);
      }
    } catch (error) {
      throw this.#convert(error as ServiceError, isLate);
    } finally {
      clearInterval(watch);
      this.#stop.signal.removeEventListener("abort", cancel);
      stream.ended = true;
      stream.onEnd();
      this.#change.notify();
      call.cancel(); // has no effect on a call that has ended
      await sending.catch(() => {});
    }
    if (!this.#isFinished) {
      const reason = stream.draining ? "DRAINING" : "UNREACHABLE";
      const message = stream.draining ? "is shutting down" : "ended the stream early";
      throw new SentinelError(Code.UNAVAILABLE, reason, `${this.#connection.address} ${message}`);
    }
  }

  async #send(call: Call, stream: Stream): Promise<void> {
    const { collection } = this.#options;
    await this.#write(call, stream, { message: { case: "start", value: { collection } } });
    for (;;) {
      const isOver = () => stream.ended || stream.draining || this.#isFinished;
      const hasRoom = () => this.#inFlight.size < stream.maxInFlight && !this.#readerIsBehind;
      await this.#until(() => isOver() || (this.#ready.length > 0 && hasRoom()));
      const batch = isOver() ? undefined : this.#ready.shift();
      if (batch === undefined) {
        call.end();
        return;
      }
      if (this.#inFlight.size === 0) {
        this.#lastProgress = performance.now();
      }
      const sequence = ++this.#sequence;
      this.#inFlight.set(sequence, batch);
      this.#change.notify();
      const items = batch.sent.map(({ message }) => message);
      await this.#write(call, stream, { message: { case: "batch", value: { sequence, items } } });
    }
  }

  /** Write a message; return when it is sent, or when the stream has ended. */
  #write(
    call: Call,
    stream: Stream,
    message: MessageInitShape<typeof IngestItemsRequestSchema>,
  ): Promise<void> {
    return new Promise((resolve) => {
      stream.onEnd = resolve;
      call.write(create(IngestItemsRequestSchema, message), () => resolve());
    });
  }

  #receive({ message }: IngestItemsResponse, stream: Stream): void {
    this.#lastProgress = performance.now();
    if (message.case === "ack") {
      this.#acknowledge(message.value);
    } else if (message.case === "advice") {
      stream.maxInFlight = Math.max(1, message.value.suggestedBatchesInFlight);
      stream.draining ||= message.value.draining;
      this.#maxItems = message.value.suggestedBatchSize || DEFAULT_BATCH_ITEMS;
    }
    this.#change.notify();
  }

  #acknowledge(ack: IngestAck): void {
    const batch = this.#inFlight.get(ack.sequence);
    if (batch === undefined) {
      const message = `the gateway acknowledged batch ${ack.sequence}, which was not sent`;
      throw new SentinelError(Code.INTERNAL, "INTERNAL", message);
    }
    this.#inFlight.delete(ack.sequence);
    this.#acknowledged += 1;
    const failures = new Map(ack.failurePlaces.map((place, at) => [place, ack.failures[at]]));
    const again: Sendable<T>[] = [];
    let pauseMs: number | undefined;
    for (const [place, one] of batch.sent.entries()) {
      const status = failures.get(place)?.error;
      const error = status && fromStatus(status);
      if (error?.retryable && batch.attempt < MAX_ATTEMPTS) {
        again.push(one);
        pauseMs = Math.max(pauseMs ?? 0, error.retryAfterMs ?? 0) || undefined;
        continue;
      }
      const { item, size } = one;
      const id = item.id || (ack.digests[place] ?? "");
      this.#push({ item, id, outcome: error ? "failed" : "stored", error }, size);
    }
    if (again.length > 0) {
      void this.#retryLater({ sent: again, attempt: batch.attempt + 1 }, pauseMs);
    }
  }

  async #retryLater(batch: Batch<T>, pauseMs: number | undefined): Promise<void> {
    this.#pausing += 1;
    const { signal } = this.#stop;
    await sleep(backoffMs(batch.attempt - 1, pauseMs), null, { signal }).catch(() => {});
    this.#pausing -= 1;
    this.#ready.push(batch);
    this.#change.notify();
  }

  #push(result: IngestResult<T>, size: number): void {
    this.#results.push({ result, size });
    this.#unreadBytes += size;
    this.#change.notify();
  }

  #convert(error: ServiceError | SentinelError, isLate: boolean): unknown {
    const { address } = this.#connection;
    if (isLate) {
      const seconds = this.#options.ackTimeoutMs / 1000;
      const message = `${address} acknowledged nothing for ${seconds} s; use a longer timeout`;
      return new SentinelError(Code.DEADLINE_EXCEEDED, "OUT_OF_TIME", message, { cause: error });
    }
    if (error instanceof SentinelError || typeof error.code !== "number") {
      return error;
    }
    return fromServiceError(error, address, this.#requestId);
  }

  /** Wait for a condition of the state. Throws if the call ends meanwhile. */
  async #until(condition: () => boolean): Promise<void> {
    while (!condition()) {
      this.#stop.signal.throwIfAborted();
      await this.#change.next();
    }
    this.#stop.signal.throwIfAborted();
  }
}

/** Wakes all who wait for a change of the state. */
class Change {
  #waiting: (() => void)[] = [];

  notify(): void {
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const wake of waiting) {
      wake();
    }
  }

  next(): Promise<void> {
    return new Promise((resolve) => this.#waiting.push(resolve));
  }
}

/** Return the pause after a number of failed attempts: at least what the gateway asks for. */
function backoffMs(failed: number, retryAfterMs: number | undefined): number {
  const pause = INITIAL_BACKOFF_MS * 2 ** (failed - 1);
  return retryAfterMs === undefined
    ? pause * (0.5 + Math.random() / 2)
    : retryAfterMs + Math.random() * Math.min(pause, retryAfterMs);
}
