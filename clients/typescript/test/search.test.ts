import assert from "node:assert/strict";
import { before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { InterceptingCall, type Interceptor } from "@grpc/grpc-js";
import { allOf, Code, field, SentinelError, type SearchSummary } from "sentinel-client";
import { Notice_Kind } from "sentinel-client/stubs/sentinel/search/v1/search_service_pb.js";

import {
  CAT,
  collect,
  idsOf,
  newClient,
  newCollection,
  photos,
  silentServer,
  texts,
} from "./live.js";

const client = newClient();
let collection = "";

before(async () => {
  collection = await newCollection(client);
  const items = photos().map((item, at) => ({ ...item, fields: { ...item.fields, year: at } }));
  const results = await client.upsert(items, { collection });
  assert.deepEqual(new Set(results.map(({ outcome }) => outcome)), new Set(["stored"]));
});

test("a search by text yields ranked hits", async () => {
  const hits = await collect(client.search({ collection, text: "a cat", limit: 5 }));
  assert.equal(hits[0]?.id, "chelsea.png");
  assert.deepEqual(
    hits.map(({ rank }) => rank),
    [1, 2, 3, 4, 5],
  );
  assert.ok(hits.every(({ score }, at) => at === 0 || score <= hits[at - 1]!.score));
  assert.equal(hits[0].fields.file, "chelsea.png");
});

test("a search by image finds the image", async () => {
  const hits = await collect(client.search({ collection, image: CAT, limit: 2 }));
  assert.equal(hits[0]?.id, "chelsea.png");
  assert.ok(hits[0].score > 0.99);
});

test("a search by a stored item or its vector finds its neighbours", async () => {
  const itemId = "chelsea.png";
  const { items } = await client.getItems([itemId], { collection, includeVectors: true });
  const vector = items[0]?.vector;
  assert.ok(vector);
  const byVector = idsOf(await collect(client.search({ collection, vector, limit: 4 })));
  const byItem = idsOf(await collect(client.search({ collection, itemId, limit: 3 })));
  assert.deepEqual(byVector, [itemId, ...byItem]);
});

test("a filter keeps the items that match", async () => {
  const filter = allOf(field("file").differsFrom("chelsea.png"), field("year").lessThan(3));
  const hits = await collect(client.search({ collection, text: "a cat", filter }));
  assert.ok(hits.length > 0);
  assert.ok(hits.every(({ id, fields }) => id !== "chelsea.png" && Number(fields.year) < 3));
});

test("a hit tells how good it is, and the summary what hits do not show", async () => {
  const text = "a cup of coffee";
  let level: string | undefined;
  // The gateway finds the levels in the background.
  for (const end = Date.now() + 180_000; level === undefined && Date.now() < end; ) {
    await sleep(20);
    const [hit] = await collect(client.search({ collection, text, limit: 1 }));
    level = hit?.matchLevel;
  }
  assert.equal(level, "STRONG");
  const summaries: SearchSummary[] = [];
  const onSummary = (summary: SearchSummary) => summaries.push(summary);
  const long = "a cup of coffee and ".repeat(200);
  await collect(client.search({ collection, text: long, limit: 3, onSummary }));
  assert.equal(summaries.length, 1);
  assert.equal(summaries[0]?.hitCount, 3);
  assert.deepEqual(
    summaries[0].notices.map(({ kind }) => Notice_Kind[kind]),
    ["TEXT_TRUNCATED"],
  );
});

test("leaving the loop ends the search", { timeout: 60_000 }, async () => {
  const many = await newCollection(client);
  await client.upsert(texts(64), { collection: many });
  const status = new Promise<number>((resolve) => {
    const tells = newClient({ interceptors: [onStatus(resolve)] });
    void (async () => {
      // So many messages that most are not read, and the call cannot end by itself.
      const options = { collection: many, text: "coffee", limit: 64, chunkSize: 1 };
      for await (const hit of tells.search(options)) {
        assert.equal(hit.rank, 1);
        break;
      }
    })();
  });
  assert.equal(await status, Code.CANCELLED);
});

test("a signal ends the call with its reason", async () => {
  const stop = new AbortController();
  const address = await silentServer(() => stop.abort(new Error("enough")));
  const silent = newClient({ address });
  const searching = collect(silent.search({ collection, text: "a cat", signal: stop.signal }));
  await assert.rejects(searching, /^Error: enough$/);
});

test("a deadline ends a call that gets no answer", async () => {
  const silent = newClient({ address: await silentServer() });
  for (const call of [
    () => collect(silent.search({ collection, text: "a cat", timeoutMs: 300 })),
    () => silent.getItems(["chelsea.png"], { collection, timeoutMs: 300 }),
    () => silent.upsert([{ text: "a cat" }], { collection, timeoutMs: 300 }),
  ]) {
    await assert.rejects(call, { code: Code.DEADLINE_EXCEEDED, reason: "OUT_OF_TIME" });
  }
});

test("each call has a deadline by default", async () => {
  const left: number[] = [];
  const notes: Interceptor = (options, next) => {
    left.push(Number(options.deadline) - Date.now());
    return new InterceptingCall(next(options));
  };
  const watched = newClient({ interceptors: [notes], readTimeoutMs: 20_000 });
  await collect(watched.search({ collection, text: "a cat" }));
  await watched.upsert([{ text: "a cat" }], { collection });
  assert.ok(left[0]! > 10_000 && left[0]! <= 20_000, `${left[0]}`);
  assert.ok(left[1]! > 100_000 && left[1]! <= 120_000, `${left[1]}`);
});

test("an error has a code, a reason and metadata", async () => {
  const search = () => collect(client.search({ collection: "no_such", text: "a cat" }));
  await assert.rejects(search, (error) => {
    assert.ok(error instanceof SentinelError);
    assert.equal(error.code, Code.NOT_FOUND);
    assert.equal(error.reason, "COLLECTION_NOT_FOUND");
    assert.equal(error.metadata.collection, "no_such");
    assert.match(error.message, /no_such.* \[COLLECTION_NOT_FOUND\]$/);
    assert.notEqual(error.requestId, "");
    return true;
  });
});

test("an error names the field that is wrong", async () => {
  const search = collect(client.search({ collection, text: "a cat", limit: 0, requestId: "r-7" }));
  await assert.rejects(search, (error) => {
    assert.ok(error instanceof SentinelError);
    assert.equal(error.reason, "PARAMETER_OUT_OF_RANGE");
    assert.deepEqual(
      error.fieldViolations.map((one) => one.field),
      ["limit"],
    );
    assert.equal(error.requestId, "r-7");
    return true;
  });
});

/** An interceptor that tells the status of each call. */
function onStatus(tell: (code: number) => void): Interceptor {
  return (options, next) =>
    new InterceptingCall(next(options), {
      start: (metadata, _, start) =>
        start(metadata, {
          onReceiveStatus: (status, pass) => {
            tell(status.code);
            pass(status);
          },
        }),
    });
}
