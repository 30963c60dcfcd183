/**
 * Store a folder of photos, then search it. Stop it at any time: the next run continues.
 *
 *     node dist/examples/photos.js FOLDER [TEXT]
 *
 * SENTINEL_ADDRESS, SENTINEL_TLS_CA and SENTINEL_API_KEY_FILE say where the gateway is and who asks.
 */

import { readdir } from "node:fs/promises";
import { extname, join } from "node:path";
import { field, SentinelClient, type Item } from "sentinel-client";

const COLLECTION = "typescript_photos";
const IMAGES = new Set([".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"]);

async function* photosOf(folder: string): AsyncGenerator<Item> {
  for (const name of await readdir(folder, { recursive: true })) {
    if (IMAGES.has(extname(name).toLowerCase())) {
      yield { image: join(folder, name), fields: { file: name } };
    }
  }
}

async function store(client: SentinelClient, folder: string, signal: AbortSignal): Promise<void> {
  await client.getOrCreateCollection(COLLECTION, { file: { type: "STRING" } });
  const count = { stored: 0, skipped: 0, failed: 0 };
  const options = { collection: COLLECTION, skipStored: true, signal };
  for await (const { item, outcome, error } of client.ingest(photosOf(folder), options)) {
    count[outcome] += 1;
    if (error) {
      console.error(`${item.fields?.file}: ${error.message}`);
      process.exitCode = 1;
    }
  }
  console.log(`${count.stored} stored, ${count.skipped} stored before, ${count.failed} failed`);
}

async function search(client: SentinelClient, text: string): Promise<void> {
  const filter = field("file").exists();
  for await (const hit of client.search({ collection: COLLECTION, text, filter, limit: 5 })) {
    console.log(hit.rank, hit.score.toFixed(3), hit.fields.file);
  }
}

const [folder, text = "a cat"] = process.argv.slice(2);
if (folder === undefined) {
  console.error("usage: node dist/examples/photos.js FOLDER [TEXT]");
  process.exit(2);
}
const stop = new AbortController();
process.once("SIGINT", () => stop.abort());
const client = new SentinelClient();
try {
  await store(client, folder, stop.signal);
  await search(client, text);
} catch (error) {
  if (stop.signal.aborted) {
    console.error("stopped; run it again to continue");
  } else {
    console.error((error as Error).message); // of the client, or of a folder that is not there
  }
  process.exitCode = 1;
} finally {
  client.close();
}
