/** Find out which items are stored already, so that a second run sends only the others. */

import { createHash } from "node:crypto";

import { MIB } from "./config.js";
import { SentinelError } from "./errors.js";
import type { Incoming } from "./ingest.js";
import type { Item, PreparedItem, StoredItem } from "./items.js";

// Small, so that sending begins soon; large, so that the question costs little per item.
const CHUNK_ITEMS = 64;
const CHUNK_BYTES = 14 * MIB;
const MAX_ID_BYTES = 256;

/**
 * Mark the items that are stored with the same content.
 *
 * Items whose content only the gateway knows, such as those with a URI, are never marked.
 *
 * @param lookUp Returns the stored items among these ids.
 */
export async function* markStored<T extends Item>(
  items: AsyncIterable<PreparedItem<T>>,
  lookUp: (ids: string[]) => Promise<StoredItem[]>,
): AsyncGenerator<Incoming<T>, void, undefined> {
  for await (const chunk of chunksOf(items)) {
    const digests = chunk.map(contentDigest);
    const ids = chunk.map(({ item }, at) => (digests[at] ? item.id || digests[at] : ""));
    const asked = [...new Set(ids.filter(isId))];
    const found = new Map<string, string>();
    for (const { id, digest } of asked.length > 0 ? await lookUp(asked) : []) {
      found.set(id, digest);
    }
    for (const [at, one] of chunk.entries()) {
      const id = ids[at] ?? "";
      yield digests[at] && found.get(id) === digests[at] ? { ...one, storedAs: id } : one;
    }
  }
}

async function* chunksOf<T extends { size: number }>(
  values: AsyncIterable<T>,
): AsyncGenerator<T[], void, undefined> {
  let chunk: T[] = [];
  let bytes = 0;
  for await (const value of values) {
    chunk.push(value);
    bytes += value.size;
    if (chunk.length >= CHUNK_ITEMS || bytes >= CHUNK_BYTES) {
      yield chunk;
      [chunk, bytes] = [[], 0];
    }
  }
  if (chunk.length > 0) {
    yield chunk;
  }
}

/** Return the hex SHA-256 of an item's content, as `Item.digest` has it; "": not known here. */
function contentDigest({ message }: PreparedItem): string {
  if (message instanceof SentinelError || message.vector !== undefined) {
    return "";
  }
  const kind = message.content?.kind;
  const source = kind?.case === "image" ? kind.value.source : undefined;
  const bytes = kind?.case === "text" ? kind.value : source?.case === "data" && source.value;
  return bytes ? createHash("sha256").update(bytes).digest("hex") : "";
}

/** Check the contract's rules for ids: one wrong id would fail the question for all. */
function isId(id: string): boolean {
  return id !== "" && Buffer.byteLength(id) <= MAX_ID_BYTES && !/[\p{Cc}\p{Cs}]/u.test(id);
}
