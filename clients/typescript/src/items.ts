/** Items, contents and vectors, and their messages. */

import { readFile } from "node:fs/promises";
import { endianness } from "node:os";
import { create, toBinary, type MessageInitShape } from "@bufbuild/protobuf";

import { MAX_MESSAGE_BYTES, MIB } from "./config.js";
import { Code, SentinelError } from "./errors.js";
import type {
  ContentSchema,
  Vector as VectorMessage,
  VectorSchema,
} from "./gen/typescript/sentinel/common/v1/content_pb.js";
import {
  ItemSchema,
  type Item as ItemMessage,
} from "./gen/typescript/sentinel/search/v1/item_service_pb.js";
import { fieldsFromProto, fieldsToProto, type Fields } from "./values.js";

/** An encoded image file: its path, its bytes, or a URI that the gateway fetches. */
export type Image = string | Uint8Array | { uri: string };

/** An item to store: a text, an image or a vector, with fields. */
export interface Item {
  /** 1 to 256 bytes of UTF-8; default: the hex SHA-256 of the image's or text's bytes. */
  id?: string | undefined;
  text?: string | undefined;
  image?: Image | undefined;
  /** A vector of the collection's space, which is stored instead of an embedding. */
  vector?: Float32Array | undefined;
  fields?: Fields | undefined;
}

/** An item that is stored. */
export interface StoredItem {
  id: string;
  text: string | undefined;
  /** Where the gateway keeps the image. */
  imageUri: string | undefined;
  thumbnail: Uint8Array | undefined;
  vector: Float32Array | undefined;
  fields: Fields;
  /** The hex SHA-256 of the content's bytes. */
  digest: string;
  /** Whether the gateway has no copy of the image, and `imageUri` is the original file. */
  byReference: boolean;
}

/** An item with its message, or with the error of an item that cannot be sent. */
export interface PreparedItem<T extends Item = Item> {
  item: T;
  message: ItemMessage | SentinelError;
  /** Bytes of the message. */
  size: number;
}

// Bytes of a request beside an item.
const OVERHEAD_BYTES = 4_096;

/** Read an item's image and build its message; a bad item has an error and throws none. */
export async function prepareItem<T extends Item>(item: T): Promise<PreparedItem<T>> {
  try {
    const message = create(ItemSchema, {
      id: item.id ?? "",
      fields: fieldsToProto(item.fields ?? {}),
      ...(item.vector ? { vector: vectorToProto(item.vector) } : {}),
      ...(item.text !== undefined || item.image !== undefined
        ? { content: await contentToProto(item.text, item.image) }
        : {}),
    });
    const size = toBinary(ItemSchema, message).byteLength;
    if (size > MAX_MESSAGE_BYTES - OVERHEAD_BYTES) {
      throw invalid("IMAGE_TOO_LARGE", `larger than ${MAX_MESSAGE_BYTES / MIB} MiB`);
    }
    return { item, message, size };
  } catch (error) {
    const known = error instanceof SentinelError;
    return { item, message: known ? error : invalid("ITEM_INVALID", String(error)), size: 0 };
  }
}

/** Return the message of a text or an image. Reads the image's file. */
export async function contentToProto(
  text: string | undefined,
  image: Image | undefined,
): Promise<MessageInitShape<typeof ContentSchema>> {
  if ((text === undefined) === (image === undefined)) {
    throw invalid("CONTENT_MISSING", "give either a text or an image");
  }
  if (text !== undefined) {
    return { kind: { case: "text", value: text } };
  }
  if (typeof image === "object" && "uri" in image) {
    const source = { case: "uri" as const, value: image.uri };
    return { kind: { case: "image", value: { source } } };
  }
  const data = typeof image === "string" ? await read(image) : (image as Uint8Array);
  return { kind: { case: "image", value: { source: { case: "data", value: data } } } };
}

export function vectorToProto(vector: Float32Array): MessageInitShape<typeof VectorSchema> {
  const data = new Uint8Array(vector.slice().buffer);
  return { data: littleEndian(data), dimensions: vector.length };
}

export function vectorFromProto(message: VectorMessage | undefined): Float32Array | undefined {
  // Copied, since a message's bytes may begin anywhere and a Float32Array must be aligned.
  return message && new Float32Array(littleEndian(Uint8Array.from(message.data)).buffer);
}

export function storedItem(message: ItemMessage): StoredItem {
  const { id, content, imageUri, thumbnail, vector, fields, digest, byReference } = message;
  return {
    id,
    text: content?.kind.case === "text" ? content.kind.value : undefined,
    imageUri: imageUri || undefined,
    thumbnail: thumbnail.length > 0 ? thumbnail : undefined,
    vector: vectorFromProto(vector),
    fields: fieldsFromProto(fields),
    digest,
    byReference,
  };
}

async function read(path: string): Promise<Uint8Array> {
  try {
    return await readFile(path);
  } catch (error) {
    throw invalid("FILE_UNREADABLE", `cannot read ${path}: ${(error as Error).message}`, error);
  }
}

function invalid(reason: string, message: string, cause?: unknown): SentinelError {
  return new SentinelError(Code.INVALID_ARGUMENT, reason, message, { cause });
}

/** Turn the bytes of float32 from the machine's order into the contract's, or back, in place. */
function littleEndian(bytes: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer> {
  return endianness() === "LE" ? bytes : new Uint8Array(Buffer.from(bytes.buffer).swap32().buffer);
}
