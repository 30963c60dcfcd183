import assert from "node:assert/strict";
import { existsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { before, test } from "node:test";
import { InterceptingCall, type Interceptor } from "@grpc/grpc-js";
import type { Item } from "sentinel-client";

import { collect, newClient, newCollection, SWITCH, TWO_ADDRESSES, vectorItem } from "./live.js";

const peers: string[] = [];
const notePeer: Interceptor = (options, next) => {
  const call = new InterceptingCall(next(options), {
    start: (metadata, _, start) =>
      start(metadata, {
        onReceiveStatus: (status, pass) => {
          peers.push(call.getPeer());
          pass(status);
        },
      }),
  });
  return call;
};

const client = newClient({ address: TWO_ADDRESSES, interceptors: [notePeer] });
let collection = "";

before(async () => {
  collection = await newCollection(client);
});

test("calls go round both gateways", { timeout: 60_000 }, async () => {
  // Both connections must be there before the calls are counted.
  while (new Set(peers).size < 2) {
    await client.getItems(["none"], { collection });
  }
  peers.length = 0;
  for (let call = 0; call < 10; call += 1) {
    await client.getItems(["none"], { collection });
  }
  const [first, second] = TWO_ADDRESSES.split(",");
  assert.deepEqual(peers.filter((peer) => peer === first).length, 5);
  assert.deepEqual(peers.filter((peer) => peer === second).length, 5);
});

test("no call fails and no item is lost while a gateway is shut down", async () => {
  const { dimensions } = await client.getOrCreateCollection(collection);
  const before = Array.from({ length: 300 }, (_, number) => vectorItem(number, dimensions));
  await collect(client.ingest(before, { collection }));

  // The gateway that is shut down refuses calls until this search ends, or for 20 s: its hits are
  // not read.
  const second = newClient({ address: TWO_ADDRESSES.split(",")[1]! });
  const held = second.search({
    ...{ collection, text: "a cat", limit: 300, chunkSize: 1 },
    ...{ includeVectors: true, consistency: "STRONG" },
  });
  await held.next();

  let isOver = false;
  let searches = 0;
  const searching = [1, 2, 3, 4].map(async () => {
    while (!isOver) {
      await collect(client.search({ collection, vector: before[0]!.vector!, limit: 3 }));
      searches += 1;
      if (searches === 40) {
        await held.return();
      }
    }
  });
  const sent: string[] = [];
  async function* untilItIsGone(): AsyncGenerator<Item> {
    for (let number = 300, more = 100; more > 0; number += 1) {
      const item = vectorItem(number, dimensions);
      sent.push(item.id);
      yield item;
      more -= Number(existsSync(join(SWITCH, "drained")));
    }
  }
  const stored: string[] = [];
  for await (const { id, outcome, error } of client.ingest(untilItIsGone(), { collection })) {
    assert.equal(outcome, "stored", error?.message);
    stored.push(id);
    if (stored.length === 50) {
      searches = 0;
      writeFileSync(join(SWITCH, "drain"), "");
    }
  }
  isOver = true;
  await Promise.all(searching); // throws if one search failed
  assert.ok(existsSync(join(SWITCH, "drained")));
  assert.ok(searches > 0);
  assert.deepEqual(stored.sort(), sent.sort());
  assert.deepEqual((await client.getItems(sent, { collection })).missingIds, []);
});
