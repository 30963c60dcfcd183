import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { test } from "node:test";
import { InterceptingCall, Metadata, type Interceptor } from "@grpc/grpc-js";
import { Code } from "sentinel-client";

import { newClient } from "./live.js";

test("callers that create one collection at once all get it", async () => {
  const client = newClient();
  const name = `ts_${randomUUID().replaceAll("-", "")}`;
  const fields = { year: { type: "INT64" } } as const;
  const callers = Array.from({ length: 8 }, () => client.getOrCreateCollection(name, fields));
  for (const collection of await Promise.all(callers)) {
    assert.equal(collection.name, name);
    assert.deepEqual(
      collection.fields.map((field) => field.name),
      ["year"],
    );
  }
});

test("a collection is not created because a proxy finds no gateway", async () => {
  const paths: string[] = [];
  const notFound: Interceptor = (options, next) => {
    paths.push(options.method_definition.path);
    return new InterceptingCall(next(options), {
      start: (metadata, _, start) =>
        start(metadata, {
          onReceiveStatus: (_, pass) =>
            pass({ code: Code.NOT_FOUND, details: "no route", metadata: new Metadata() }),
        }),
    });
  };
  const client = newClient({ interceptors: [notFound] });
  await assert.rejects(client.getOrCreateCollection("no_such"), { reason: "UNKNOWN" });
  assert.deepEqual(paths, ["/sentinel.search.v1.CollectionService/GetCollection"]);
});
