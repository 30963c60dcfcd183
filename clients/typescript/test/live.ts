/** The gateways that the tests run against; tests/clients/live.py starts them. */

import { randomUUID } from "node:crypto";
import { readdirSync } from "node:fs";
import { connect, createServer, type AddressInfo, type Socket } from "node:net";
import { join } from "node:path";
import { after } from "node:test";

import { SentinelClient, type Hit, type Item } from "sentinel-client";
import type { ClientOptions } from "sentinel-client";

function variable(name: string): string {
  const value = process.env[name];
  if (!value) {
    throw new Error(`${name} is not set: run these tests with \`make test-clients\``);
  }
  return value;
}

export const ADDRESS = variable("SENTINEL_TEST_ADDRESS");
export const SECURE_ADDRESS = variable("SENTINEL_TEST_SECURE_ADDRESS");
export const CA = variable("SENTINEL_TEST_CA");
export const API_KEY = variable("SENTINEL_TEST_API_KEY");
export const TWO_ADDRESSES = variable("SENTINEL_TEST_ADDRESSES");
export const SWITCH = variable("SENTINEL_TEST_SWITCH");
const PHOTOS = variable("SENTINEL_TEST_PHOTOS");

export const CAT = join(PHOTOS, "chelsea.png");

/** Return a client that is closed after the tests of the file. */
export function newClient(options: ClientOptions = {}): SentinelClient {
  const client = new SentinelClient({ address: ADDRESS, ...options });
  after(() => client.close());
  return client;
}

/** Create a collection of the tests' own and return its name. */
export async function newCollection(client: SentinelClient): Promise<string> {
  const name = `ts_${randomUUID().replaceAll("-", "")}`;
  await client.createCollection(name, { file: { type: "STRING" }, year: { type: "INT64" } });
  return name;
}

/** Return all photos as items, with their names as ids. */
export function photos(): Item[] {
  return readdirSync(PHOTOS)
    .filter((name) => /\.(jpe?g|png)$/.test(name))
    .sort()
    .map((name) => ({ id: name, image: join(PHOTOS, name), fields: { file: name } }));
}

/** Return texts as items: many of them are cheap. */
export function texts(count: number): Item[] {
  return Array.from({ length: count }, (_, at) => ({
    id: `text ${at}`,
    text: `a photo of ${at} cups of coffee`,
    fields: { year: at },
  }));
}

/** Return an item with a vector, which no worker embeds. */
export function vectorItem(number: number, dimensions: number): Item & { id: string } {
  const vector = Float32Array.from({ length: dimensions }, (_, place) => Math.sin(number + place));
  return { id: `vector ${number}`, vector };
}

export async function collect<T>(values: AsyncIterable<T>): Promise<T[]> {
  const found: T[] = [];
  for await (const value of values) {
    found.push(value);
  }
  return found;
}

export function idsOf(hits: Hit[]): string[] {
  return hits.map((hit) => hit.id);
}

/** Return the address of a server that accepts connections and says nothing. */
export function silentServer(onConnection: () => void = () => {}): Promise<string> {
  return serve(onConnection);
}

/** Return the address of a proxy of the gateway; `onConnection` may destroy the sockets. */
export function proxy(onConnection: (socket: Socket) => void): Promise<string> {
  const [host, port] = ADDRESS.split(":");
  return serve((socket) => {
    const upstream = connect(Number(port), host);
    socket.pipe(upstream).pipe(socket);
    for (const [one, other] of [
      [socket, upstream],
      [upstream, socket],
    ] as const) {
      one.on("error", () => {}).on("close", () => other.destroy());
    }
    onConnection(socket);
  });
}

async function serve(onConnection: (socket: Socket) => void): Promise<string> {
  const sockets: Socket[] = [];
  const server = createServer((socket) => {
    sockets.push(socket);
    onConnection(socket);
  }).unref();
  // grpc-js keeps a socket whose client was closed before it was connected.
  after(() => sockets.forEach((socket) => socket.destroy()));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return `127.0.0.1:${(server.address() as AddressInfo).port}`;
}
