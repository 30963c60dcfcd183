import assert from "node:assert/strict";
import { mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { Code, SentinelClient } from "sentinel-client";

import { API_KEY, CA, collect, newClient, newCollection, SECURE_ADDRESS } from "./live.js";

const address = SECURE_ADDRESS;
const tls = { ca: CA };

function search(client: SentinelClient): Promise<unknown> {
  return collect(client.search({ collection: "no_such", text: "a cat" }));
}

test("TLS and a key let a call in", async () => {
  const client = newClient({ address, tls, apiKey: API_KEY });
  const collection = await newCollection(client);
  const [result] = await client.upsert([{ id: "1", text: "a cat" }], { collection });
  assert.equal(result?.outcome, "stored");
  const [again] = await collect(client.ingest([{ id: "2", text: "a dog" }], { collection }));
  assert.equal(again?.outcome, "stored");
});

test("the environment names the CA and the key's file", async (t) => {
  const file = join(mkdtempSync(join(tmpdir(), "sentinel-")), "key");
  writeFileSync(file, `${API_KEY}\n`);
  const variables = {
    SENTINEL_ADDRESS: address,
    SENTINEL_TLS_CA: CA,
    SENTINEL_API_KEY_FILE: file,
  };
  Object.assign(process.env, variables);
  t.after(() => Object.keys(variables).forEach((name) => delete process.env[name]));
  const client = new SentinelClient();
  t.after(() => client.close());
  await assert.rejects(search(client), { code: Code.NOT_FOUND });
});

test("a call without a key is refused with a reason", async () => {
  const calling = search(newClient({ address, tls }));
  await assert.rejects(calling, { code: Code.UNAUTHENTICATED, reason: "CREDENTIALS_MISSING" });
});

test("a call with a wrong key is refused with a reason", async () => {
  const client = newClient({ address, tls, apiKey: () => `${API_KEY.slice(0, -4)}0000` });
  const calling = search(client);
  await assert.rejects(calling, { code: Code.UNAUTHENTICATED, reason: "CREDENTIALS_INVALID" });
});

test("a server of an unknown CA is not trusted", async () => {
  const calling = search(newClient({ address, tls: true, apiKey: API_KEY }));
  await assert.rejects(calling, { code: Code.UNAVAILABLE, reason: "UNREACHABLE" });
});

test("a server of another name is not trusted", async () => {
  const other = { ...tls, serverName: "other.example" };
  const calling = search(newClient({ address, tls: other, apiKey: API_KEY }));
  await assert.rejects(calling, { code: Code.UNAVAILABLE, reason: "UNREACHABLE" });
});

test("a key does not leave the machine without TLS", () => {
  for (const remote of ["192.0.2.1:50050", "example.com:50050", "127.0.0.1:1,192.0.2.1:1"]) {
    assert.throws(() => new SentinelClient({ address: remote, apiKey: "k" }), /without TLS/);
  }
  for (const local of ["127.0.0.1:50050", "localhost:50050", "[::1]:50050", "unix:/tmp/s"]) {
    new SentinelClient({ address: local, apiKey: "k" }).close();
  }
});

test("an address that cannot work is refused at once", () => {
  assert.throws(() => new SentinelClient({ address: "http://127.0.0.1:1" }), /without a scheme/);
  assert.throws(() => new SentinelClient({ address: "a:1,b:1" }), /IP addresses of one kind/);
});
