import assert from "node:assert/strict";
import { before, test } from "node:test";
import { create, toBinary, toJsonString } from "@bufbuild/protobuf";
import { anyPack, timestampFromDate } from "@bufbuild/protobuf/wkt";
import { InterceptingCall, Metadata, type Interceptor } from "@grpc/grpc-js";
import {
  allOf,
  anyOf,
  Code,
  field,
  noneOf,
  SentinelError,
  type Filter,
  type Item,
} from "sentinel-client";
import { ErrorInfoSchema } from "sentinel-client/stubs/google/rpc/error_details_pb.js";
import { StatusSchema } from "sentinel-client/stubs/google/rpc/status_pb.js";
import { FilterSchema } from "sentinel-client/stubs/sentinel/search/v1/filter_pb.js";
import {
  ItemService,
  type IngestItemsResponse,
} from "sentinel-client/stubs/sentinel/search/v1/item_service_pb.js";

import { collect, newClient, newCollection, photos, proxy, silentServer, texts } from "./live.js";

const client = newClient();
let collection = "";

before(async () => {
  collection = await newCollection(client);
});

const BAD: [Item, string][] = [
  [{ id: "no file", image: "/no/such/file.png" }, "FILE_UNREADABLE"],
  [{ id: "no image", image: Buffer.from("no image") }, "IMAGE_FORMAT_UNSUPPORTED"],
  [{ id: "no content" }, "CONTENT_MISSING"],
  [{ id: "no value", text: "a cat", fields: { year: null as never } }, "ITEM_INVALID"],
  [{ id: "no such field", text: "a cat", fields: { colour: "red" } }, "FIELD_UNKNOWN"],
];

test("an upsert returns a result per item, and a bad item fails alone", async () => {
  const good = photos().slice(0, 3);
  const items = [good[0]!, ...BAD.map(([item]) => item), good[1]!, good[2]!];
  const results = await client.upsert(items, { collection });
  assert.deepEqual(
    results.map(({ item }) => item),
    items,
  );
  assert.deepEqual(
    results.map(({ id }) => id),
    items.map(({ id }) => id),
  );
  const reasons = BAD.map(([, reason]) => reason);
  const expected = [undefined, ...reasons, undefined, undefined];
  assert.deepEqual(
    results.map(({ error }) => error?.reason),
    expected,
  );
  const again = await client.upsert(good, { collection });
  assert.deepEqual(
    again.map(({ outcome }) => outcome),
    Array(3).fill("unchanged"),
  );
});

test("a failed item has a code and a message", async () => {
  const [result] = await client.upsert([{ text: " " }], { collection });
  assert.equal(result?.outcome, "failed");
  assert.equal(result.error?.code, Code.INVALID_ARGUMENT);
  assert.equal(result.error.reason, "TEXT_EMPTY");
});

const TYPES = ["STRING", "INT64", "DOUBLE", "BOOL", "STRING_LIST", "TIMESTAMP", "GEO"] as const;
const MUNICH = { latitude: 48.14, longitude: 11.58 };
const NOON = new Date("2021-07-03T12:00:00.123Z");
const VALUES = {
  STRING: "/photos/é/2021/a.jpg",
  INT64: 2n ** 60n,
  DOUBLE: 0.5,
  BOOL: false,
  STRING_LIST: ["a", ""],
  TIMESTAMP: NOON,
  GEO: MUNICH,
};

/** Create a collection with one item, which has a field of each type. */
async function typedCollection(name: string): Promise<string> {
  const typed = `${collection}_${name}`;
  await client.createCollection(typed, Object.fromEntries(TYPES.map((type) => [type, { type }])));
  const item = { id: "1", text: "a cat", fields: VALUES };
  const [result] = await client.upsert([item], { collection: typed });
  assert.equal(result?.error, undefined);
  return typed;
}

test("values of all types come back as they were stored", async () => {
  const typed = await typedCollection("types");
  const { items, missingIds } = await client.getItems(["1", "2"], { collection: typed });
  assert.deepEqual(items[0]?.fields, VALUES);
  assert.equal(items[0].text, "a cat");
  assert.deepEqual(missingIds, ["2"]);
});

test("a time comes back without its microseconds", async () => {
  const typed = await typedCollection("micros");
  const nanos = NOON.getMilliseconds() * 1e6 + 999_000;
  const value = { ...timestampFromDate(NOON), nanos };
  const fields = { TIMESTAMP: { kind: { case: "timestampValue" as const, value } } };
  const content = { kind: { case: "text" as const, value: "a cat" } };
  const request = { collection: typed, items: [{ id: "1", content, fields }] };
  await client.call(ItemService.method.upsertItems, request);
  const { items } = await client.getItems(["1"], { collection: typed });
  assert.deepEqual(items[0]?.fields, { TIMESTAMP: NOON });
});

test("filters compare values of all types, times, places and parts of texts", async () => {
  const typed = await typedCollection("filters");
  const found = async (filter: Filter) =>
    (await collect(client.search({ collection: typed, text: "a cat", filter }))).length;
  const told = (filter: Filter) => toJsonString(FilterSchema, filter);
  const later = new Date(NOON.getTime() + 1);
  const [at, place, string] = [field("TIMESTAMP"), field("GEO"), field("STRING")];
  const matching = [
    field("BOOL").equals(false),
    string.differsFrom("b"),
    at.lessThan(later),
    at.atMost(NOON),
    field("DOUBLE").greaterThan(0.4),
    field("DOUBLE").greaterThan(-0),
    at.atLeast(NOON),
    field("INT64").isOneOf(3, 2n ** 60n),
    field("INT64").isNoneOf(3, 2n ** 60n + 1n),
    string.startsWith("/photos"),
    string.contains("2021"),
    field("STRING_LIST").contains("a"),
    place.exists(),
    place.near(MUNICH, 1000),
    place.within(48, 11, 49, 12),
    place.within(48, 170, 49, 12), // across the 180th meridian
    anyOf(place.exists(), field("BOOL").equals(true)),
  ];
  for (const filter of matching) {
    assert.deepEqual([await found(filter), await found(noneOf(filter))], [1, 0], told(filter));
  }
  const others = [
    at.greaterThan(NOON),
    string.contains("2022"),
    place.near({ latitude: 48, longitude: 11.58 }, 1000),
    place.within(40, 11, 41, 12),
    allOf(place.exists(), at.lessThan(NOON)),
  ];
  for (const filter of others) {
    assert.equal(await found(filter), 0, told(filter));
  }
});

test("items that need more than one answer are read, and skipped if stored", async () => {
  // 4.2 MB; the gateway puts at most 3.5 MiB into an answer. `skipStored` asks for 64 at once.
  const file = "x".repeat(59_000);
  const items = texts(72).map((item) => ({ ...item, id: `large ${item.id}`, fields: { file } }));
  const wanted = items.map(({ id }) => id);
  await collect(client.ingest(items, { collection }));
  const found = await client.getItems([...wanted, "none"], { collection });
  assert.deepEqual(
    found.items.map(({ id }) => id),
    wanted,
  );
  assert.deepEqual(found.missingIds, ["none"]);
  const again = await collect(client.ingest(items, { collection, skipStored: true }));
  assert.deepEqual(
    again.map(({ id, outcome }) => [id, outcome]),
    wanted.map((id) => [id, "skipped"]),
  );
});

test("an ingest acknowledges each item, and a bad item fails alone", async () => {
  const items = [...photos(), ...BAD.map(([item]) => item), ...texts(100)];
  const results = await collect(client.ingest(items, { collection }));
  assert.equal(results.length, items.length);
  assert.deepEqual(new Set(results.map(({ item }) => item)), new Set(items));
  const failed = results.filter(({ outcome }) => outcome === "failed");
  const reasons = Object.fromEntries(failed.map(({ id, error }) => [id, error?.reason]));
  assert.deepEqual(reasons, Object.fromEntries(BAD.map(([item, reason]) => [item.id, reason])));
  const { missingIds } = await client.getItems(
    items.map(({ id }) => id!),
    { collection },
  );
  assert.deepEqual(new Set(missingIds), new Set(BAD.map(([item]) => item.id)));
});

test("an ingest tells the id that the gateway derived", async () => {
  const [result] = await collect(client.ingest([{ text: "an old cat" }], { collection }));
  const { items } = await client.getItems([result!.id], { collection });
  assert.equal(items[0]?.text, "an old cat");
});

test("an ingest that was stopped is resumed by the next one", async () => {
  const items = texts(120).map(({ id, text }) => ({
    id: `resumed ${id}`,
    text: `resumed ${text}`,
  }));
  const stored = new Set<string>();
  for await (const { id } of client.ingest(items, { collection })) {
    stored.add(id);
    if (stored.size === 20) {
      break;
    }
  }
  const results = await collect(client.ingest(items, { collection, skipStored: true }));
  const skipped = results.filter(({ outcome }) => outcome === "skipped").map(({ id }) => id);
  assert.deepEqual(new Set(results.map(({ id }) => id)), new Set(items.map(({ id }) => id)));
  assert.ok([...stored].every((id) => skipped.includes(id)));
  const third = await collect(client.ingest(items, { collection, skipStored: true }));
  assert.deepEqual(new Set(third.map(({ outcome }) => outcome)), new Set(["skipped"]));
});

test("another content under a stored id is not skipped", async () => {
  const options = { collection, skipStored: true };
  const outcomes = [];
  for (const text of ["a red cup", "a red cup", "a blue cup"]) {
    const [result] = await collect(client.ingest([{ id: "cup", text }], options));
    outcomes.push(result?.outcome);
  }
  assert.deepEqual(outcomes, ["stored", "skipped", "stored"]);
});

test("an ingest goes on after a lost connection", async () => {
  const sockets: { destroy(): void }[] = [];
  const address = await proxy((socket) => sockets.push(socket));
  const items = texts(300);
  const seen: string[] = [];
  for await (const { id, outcome } of newClient({ address }).ingest(items, { collection })) {
    assert.equal(outcome, "stored");
    seen.push(id);
    if (seen.length === 1 || seen.length === 100) {
      sockets.at(-1)?.destroy();
    }
  }
  assert.ok(sockets.length > 1);
  assert.deepEqual(seen.sort(), items.map(({ id }) => id).sort());
});

test("an ingest opens a new stream after one that was idle for too long", async () => {
  const idle = endFirstStreamAsIdle();
  const items = texts(20);
  async function* source(): AsyncGenerator<Item> {
    yield items[0]!;
    await idle.ended;
    yield* items.slice(1);
  }
  const patient = newClient({ interceptors: [idle.interceptor] });
  const results = await collect(patient.ingest(source(), { collection }));
  assert.deepEqual(
    results.map(({ id, outcome }) => [id, outcome]),
    items.map(({ id }) => [id, "stored"]),
  );
});

test("an ingest whose items are over ends well after an idle stream", async () => {
  const idle = endFirstStreamAsIdle();
  async function* source(): AsyncGenerator<Item> {
    yield* texts(1);
    await idle.ended;
  }
  const patient = newClient({ interceptors: [idle.interceptor] });
  const results = await collect(patient.ingest(source(), { collection }));
  assert.deepEqual(
    results.map(({ outcome }) => outcome),
    ["stored"],
  );
  assert.equal(idle.opened(), 1);
});

test("a call is repeated after a lost connection", async () => {
  let count = 0;
  const address = await proxy((socket) => {
    count += 1;
    if (count === 1) {
      socket.destroy();
    }
  });
  const { missingIds } = await newClient({ address }).getItems(["none"], { collection });
  assert.deepEqual(missingIds, ["none"]);
  assert.equal(count, 2);
});

test("an error of the items comes after the results of those before", async () => {
  const failure = new Error("no more");
  const seen: string[] = [];
  const ingesting = async () => {
    for await (const { id } of client.ingest(failingAfter(texts(10), failure), { collection })) {
      seen.push(id);
    }
  };
  await assert.rejects(ingesting, failure);
  assert.equal(seen.length, 10);
});

test("an ingest fails with a reason", async () => {
  const ingesting = () => collect(client.ingest(texts(3), { collection: "no_such" }));
  await assert.rejects(ingesting, (error) => {
    assert.ok(error instanceof SentinelError);
    assert.deepEqual([error.code, error.reason], [Code.NOT_FOUND, "COLLECTION_NOT_FOUND"]);
    return true;
  });
});

test("an ingest without an acknowledgement ends in time", async () => {
  const silent = newClient({ address: await silentServer() });
  const ingesting = () => collect(silent.ingest(texts(3), { collection, timeoutMs: 300 }));
  await assert.rejects(ingesting, { code: Code.DEADLINE_EXCEEDED, reason: "OUT_OF_TIME" });
});

test("a signal ends an ingest that waits for its items", async () => {
  const stop = new AbortController();
  const options = { collection, signal: stop.signal };
  const ingesting = async () => {
    for await (const { id } of client.ingest(thenNothing(texts(1)), options)) {
      assert.equal(id, "text 0");
      stop.abort(new Error("enough"));
    }
  };
  await assert.rejects(ingesting, /^Error: enough$/);
});

async function* failingAfter(items: Item[], error: Error): AsyncGenerator<Item> {
  yield* items;
  throw error;
}

async function* thenNothing(items: Item[]): AsyncGenerator<Item> {
  yield* items;
  await new Promise(() => {});
}

/** End the first stream after its first acknowledgement, as a gateway does with an idle one. */
function endFirstStreamAsIdle() {
  const [code, message] = [Code.DEADLINE_EXCEEDED, "open a new stream when there is more"];
  const info = create(ErrorInfoSchema, { reason: "STREAM_STALLED", domain: "sentinel" });
  const details = [anyPack(ErrorInfoSchema, info)];
  const status = toBinary(StatusSchema, create(StatusSchema, { code, message, details }));
  const metadata = new Metadata();
  metadata.set("grpc-status-details-bin", Buffer.from(status));
  let opened = 0;
  let end = () => {};
  const ended = new Promise<void>((resolve) => (end = resolve));
  const interceptor: Interceptor = (options, next) => {
    opened += 1;
    const isFirst = opened === 1;
    const call = new InterceptingCall(next(options), {
      start: (sent, _, start) =>
        start(sent, {
          onReceiveMessage: (answer: IngestItemsResponse, pass) => {
            pass(answer);
            if (isFirst && answer.message.case === "ack") {
              call.cancelWithStatus(code, message);
            }
          },
          onReceiveStatus: (received, pass) => {
            pass(isFirst ? { code, details: message, metadata } : received);
            end();
          },
        }),
    });
    return call;
  };
  return { interceptor, ended, opened: () => opened };
}
