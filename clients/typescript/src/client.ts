/** The client: search, write and read items, manage collections. */

import type {
  DescMessage,
  DescMethodServerStreaming,
  DescMethodUnary,
  MessageInitShape,
  MessageShape,
} from "@bufbuild/protobuf";

import { MIB, type ClientOptions } from "./config.js";
import { Connection, type CallOptions } from "./connection.js";
import { Code, fromStatus, SentinelError, truncated, type Reason } from "./errors.js";
import {
  CollectionService,
  FieldSchema_Type,
  type Collection,
} from "./gen/typescript/sentinel/search/v1/collection_service_pb.js";
import {
  ItemResult_Outcome,
  ItemService,
  type ItemResult,
} from "./gen/typescript/sentinel/search/v1/item_service_pb.js";
import {
  Consistency,
  MatchLevel,
  SearchService,
  type Hit as HitMessage,
  type QuerySchema,
  type SearchSummary,
} from "./gen/typescript/sentinel/search/v1/search_service_pb.js";
import { IngestJob, type IngestResult } from "./ingest.js";
import {
  contentToProto,
  prepareItem,
  storedItem,
  vectorFromProto,
  vectorToProto,
  type Image,
  type Item,
  type StoredItem,
} from "./items.js";
import { markStored } from "./stored.js";
import { fieldsFromProto, type Fields, type Filter } from "./values.js";

/** What to search for: exactly one of the four. */
export type Query =
  | { text: string }
  | { image: Image }
  | { vector: Float32Array }
  /** More like a stored item. */
  | { itemId: string };

/** How to search. */
export type SearchOptions = Query &
  CallOptions & {
    /** A collection or an alias. */
    collection: string;
    /** Most hits, 1 to 10,000; default 20. */
    limit?: number;
    /** Most hits that the gateway sends at once, 1 to 1,000; default 32. */
    chunkSize?: number;
    /** Search only items that match: `field("year").atLeast(2000)`. */
    filter?: Filter;
    /** The fields to return; default: all. */
    outputFields?: string[];
    /** The least cosine of a hit, -1 to 1. */
    minScore?: number;
    /** Which writes the search must see; default: those through the same gateway. */
    consistency?: Exclude<keyof typeof Consistency, "UNSPECIFIED">;
    includeThumbnails?: boolean;
    includeVectors?: boolean;
    /** Called after the last hit, with the times, and notices, such as that a text was cut. */
    onSummary?: (summary: SearchSummary) => void;
  };

/** A ranked item. */
export interface Hit {
  id: string;
  /** The position in the result, from 1. */
  rank: number;
  /** The cosine, -1 to 1; higher is better. */
  score: number;
  /** How good the match is, by itself; undefined where the gateway cannot tell. */
  matchLevel: Exclude<keyof typeof MatchLevel, "UNSPECIFIED"> | undefined;
  fields: Fields;
  text: string | undefined;
  /** Where the gateway keeps the image. */
  imageUri: string | undefined;
  /** WebP. */
  thumbnail: Uint8Array | undefined;
  vector: Float32Array | undefined;
}

/** The result of one item of `upsert`. */
export interface UpsertResult<T extends Item = Item> {
  item: T;
  /** Its id, given or derived. */
  id: string;
  /** `unchanged`: it was stored before with the same content and fields. */
  outcome: "stored" | "unchanged" | "failed";
  error: SentinelError | undefined;
}

/** A declared field of a new collection. */
export interface FieldDeclaration {
  type: Exclude<keyof typeof FieldSchema_Type, "UNSPECIFIED">;
  indexed?: boolean;
  fullText?: boolean;
}

const MAX_IDS = 1_000;
const UPSERT_ITEMS = 64;
const UPSERT_BYTES = 14 * MIB;

/**
 * A client of one gateway, or of several that serve the same data.
 *
 * Each call has a deadline. gRPC repeats a failed call within it if that is safe. Errors are
 * SentinelErrors. Create one client and share it; close it at the end.
 */
export class SentinelClient {
  readonly #connection: Connection;

  /** Open no connection yet. Throws if a file of TLS cannot be read. */
  constructor(options: ClientOptions = {}) {
    this.#connection = new Connection(options);
  }

  /**
   * Yield the nearest items, best first, as they arrive; leaving the loop ends the search.
   *
   * Throws SentinelError; RESULT_TRUNCATED if the stream ended early and hits may be missing.
   */
  async *search(options: SearchOptions): AsyncGenerator<Hit, void, undefined> {
    const request = {
      params: {
        collection: options.collection,
        query: await queryToProto(options),
        ...(options.filter ? { filter: options.filter } : {}),
        outputFields: options.outputFields ?? [],
        ...(options.minScore !== undefined ? { minScore: options.minScore } : {}),
        consistency: Consistency[options.consistency ?? "UNSPECIFIED"],
        includeThumbnails: options.includeThumbnails ?? false,
        includeVectors: options.includeVectors ?? false,
      },
      ...(options.limit !== undefined ? { limit: options.limit } : {}),
      ...(options.chunkSize !== undefined ? { chunkSize: options.chunkSize } : {}),
    };
    let isComplete = false;
    for await (const message of this.#connection.stream(
      SearchService.method.search,
      request,
      options,
    )) {
      for (const hit of message.chunk?.hits ?? []) {
        yield hitFromProto(hit);
      }
      if (message.summary) {
        isComplete = true;
        options.onSummary?.(message.summary);
      }
    }
    if (!isComplete) {
      throw truncated("the stream of hits ended before its summary; search again");
    }
  }

  /**
   * Store items and return their results in order. A bad item fails alone: its result has the
   * error. For many items use `ingest`.
   */
  async upsert<T extends Item>(
    items: Iterable<T> | AsyncIterable<T>,
    options: CallOptions & { collection: string },
  ): Promise<UpsertResult<T>[]> {
    const results: UpsertResult<T>[] = [];
    let batch: { result: UpsertResult<T>; message: Parameters<typeof storedItem>[0] }[] = [];
    let bytes = 0;
    const send = async () => {
      const { collection } = options;
      const request = { collection, items: batch.map(({ message }) => message) };
      const answer = await this.call(ItemService.method.upsertItems, request, options);
      for (const [at, { result }] of batch.entries()) {
        Object.assign(result, outcomeOf(answer.results[at]));
      }
      [batch, bytes] = [[], 0];
    };
    for await (const item of items) {
      const { message, size } = await prepareItem(item);
      const error = message instanceof SentinelError ? message : undefined;
      const result: UpsertResult<T> = { item, id: item.id ?? "", outcome: "failed", error };
      results.push(result);
      if (message instanceof SentinelError) {
        continue;
      }
      if (batch.length >= UPSERT_ITEMS || (batch.length > 0 && bytes + size > UPSERT_BYTES)) {
        await send();
      }
      batch.push({ result, message });
      bytes += size;
    }
    if (batch.length > 0) {
      await send();
    }
    return results;
  }

  /**
   * Store any number of items over one stream; yield one result per item.
   *
   * The gateway limits how much it takes at once, and `items` is read no faster, so it may be an
   * endless generator. The client reconnects to a gateway that is lost or shut down, and sends
   * again what was not acknowledged; this changes no stored item. It also repeats items that fail
   * for a temporary reason. Results come about in order. Leaving the loop ends the call; what was
   * yielded stays stored.
   *
   * With `skipStored`, the client first asks which items are stored, and sends only the others. So
   * a second run continues where the first one ended. An item counts as stored if the collection
   * has its id with the same content; its fields are not compared.
   *
   * Throws SentinelError if the stream fails five times without progress, or for a reason that
   * does not go away. Items without a result may be stored; repeating the call is safe. `timeoutMs`
   * is the longest wait for the next acknowledgement; the call itself has no time limit.
   */
  async *ingest<T extends Item>(
    items: Iterable<T> | AsyncIterable<T>,
    options: CallOptions & { collection: string; skipStored?: boolean },
  ): AsyncGenerator<IngestResult<T>, void, undefined> {
    const { collection, signal } = options;
    const prepared = preparedItems(items);
    const lookUp = async (ids: string[]) =>
      (await this.getItems(ids, { collection, signal })).items;
    const job = new IngestJob<T>(this.#connection, {
      collection,
      ackTimeoutMs: this.#connection.timeoutMs(ItemService.method.ingestItems, options),
      signal,
    });
    yield* job.run(options.skipStored ? markStored(prepared, lookUp) : prepared);
  }

  /**
   * Return the items with these ids, any number of them, and the ids that are not stored.
   *
   * They are read in several calls if they are many or large, each with its own `timeoutMs`.
   */
  async getItems(
    ids: readonly string[],
    options: CallOptions & { collection: string; includeVectors?: boolean },
  ): Promise<{ items: StoredItem[]; missingIds: string[] }> {
    const items: StoredItem[] = [];
    const missingIds: string[] = [];
    const { collection, includeVectors = false } = options;
    for (let start = 0; start < ids.length; start += MAX_IDS) {
      let unread = ids.slice(start, start + MAX_IDS);
      while (unread.length > 0) {
        const request = { collection, ids: unread, includeVectors };
        const answer = await this.call(ItemService.method.getItems, request, options);
        items.push(...answer.items.map(storedItem));
        missingIds.push(...answer.missingIds);
        unread = answer.unreadIds; // their items did not fit into the answer
      }
    }
    return { items, missingIds };
  }

  /** Create a collection for the workers' model, and return it. */
  async createCollection(
    name: string,
    fields: Record<string, FieldDeclaration> = {},
    options: CallOptions = {},
  ): Promise<Collection> {
    const collection = {
      name,
      fields: Object.entries(fields).map(([field, { type, ...rest }]) => ({
        name: field,
        type: FieldSchema_Type[type],
        ...rest,
      })),
    };
    const method = CollectionService.method.createCollection;
    const answer = await this.call(method, { collection }, options);
    return required(answer.collection);
  }

  /**
   * Return a collection by its name or an alias; create it if it does not exist.
   *
   * Several callers may do so at once. A collection that exists is not changed.
   */
  async getOrCreateCollection(
    name: string,
    fields: Record<string, FieldDeclaration> = {},
    options: CallOptions = {},
  ): Promise<Collection> {
    const get = async () => {
      const method = CollectionService.method.getCollection;
      return required((await this.call(method, { name }, options)).collection);
    };
    try {
      return await get();
    } catch (error) {
      throwUnless("COLLECTION_NOT_FOUND", error);
    }
    try {
      return await this.createCollection(name, fields, options);
    } catch (error) {
      throwUnless("COLLECTION_EXISTS", error);
      return await get(); // another caller was faster
    }
  }

  /**
   * Make any unary call of the contract, with the same deadline, retries, key and errors.
   *
   *     import { ItemService } from "sentinel-client/stubs/sentinel/search/v1/item_service_pb.js";
   *     await client.call(ItemService.method.deleteItems, { collection, selector: … });
   */
  call<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    request: MessageInitShape<I>,
    options: CallOptions = {},
  ): Promise<MessageShape<O>> {
    return this.#connection.unary(method, request, options);
  }

  /** Make any call of the contract that streams its answer, such as DownloadImage. */
  stream<I extends DescMessage, O extends DescMessage>(
    method: DescMethodServerStreaming<I, O>,
    request: MessageInitShape<I>,
    options: CallOptions = {},
  ): AsyncGenerator<MessageShape<O>, void, undefined> {
    return this.#connection.stream(method, request, options);
  }

  /** Close the connection; calls in flight end first. */
  close(): void {
    this.#connection.close();
  }
}

async function* preparedItems<T extends Item>(items: Iterable<T> | AsyncIterable<T>) {
  for await (const item of items) {
    yield await prepareItem(item);
  }
}

async function queryToProto(query: Query): Promise<MessageInitShape<typeof QuerySchema>> {
  if ("itemId" in query) {
    return { kind: { case: "itemId", value: query.itemId } };
  }
  if ("vector" in query) {
    return { kind: { case: "vector", value: vectorToProto(query.vector) } };
  }
  const { text, image } = query as { text?: string; image?: Image };
  return { kind: { case: "content", value: await contentToProto(text, image) } };
}

function hitFromProto(message: HitMessage): Hit {
  const { id, rank, score, fields, text, imageUri, thumbnail, vector } = message;
  const matchLevel = MatchLevel[message.matchLevel] as keyof typeof MatchLevel | undefined;
  return {
    id,
    rank,
    score,
    matchLevel: matchLevel === "UNSPECIFIED" ? undefined : matchLevel,
    fields: fieldsFromProto(fields),
    text: text || undefined,
    imageUri: imageUri || undefined,
    thumbnail: thumbnail.length > 0 ? thumbnail : undefined,
    vector: vectorFromProto(vector),
  };
}

function outcomeOf(result: ItemResult | undefined): Omit<UpsertResult, "item"> {
  const { id, outcome, error } = required(result);
  if (outcome === ItemResult_Outcome.FAILED) {
    return { id, outcome: "failed", error: fromStatus(required(error)) };
  }
  const isUnchanged = outcome === ItemResult_Outcome.UNCHANGED;
  return { id, outcome: isUnchanged ? "unchanged" : "stored", error: undefined };
}

function throwUnless(reason: Reason, error: unknown): void {
  if (!(error instanceof SentinelError && error.reason === reason)) {
    throw error;
  }
}

function required<T>(value: T | undefined): T {
  if (value === undefined) {
    throw new SentinelError(Code.INTERNAL, "INTERNAL", "the gateway's answer is incomplete");
  }
  return value;
}
