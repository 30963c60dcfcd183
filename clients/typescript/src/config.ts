/** What a client needs to know: where the gateways are, whom to trust, who it is. */

import { readFileSync } from "node:fs";
import { BlockList, isIPv4, isIPv6 } from "node:net";
import {
  credentials,
  type ChannelCredentials,
  type ChannelOptions,
  type Interceptor,
} from "@grpc/grpc-js";
import type { DescMethod, DescService } from "@bufbuild/protobuf";
import { MethodOptions_IdempotencyLevel as Idempotency } from "@bufbuild/protobuf/wkt";

import { EmbeddingService } from "./gen/typescript/sentinel/embedding/v1/embedding_service_pb.js";
import { AccessService } from "./gen/typescript/sentinel/search/v1/access_service_pb.js";
import { CollectionService } from "./gen/typescript/sentinel/search/v1/collection_service_pb.js";
import { ItemService } from "./gen/typescript/sentinel/search/v1/item_service_pb.js";
import { SearchService } from "./gen/typescript/sentinel/search/v1/search_service_pb.js";

/** The PEM files of TLS. */
export interface Tls {
  /** The CAs that may have signed the server's certificate; default: those of Node.js. */
  ca?: string | undefined;
  /** The client's certificate, for gateways that ask for one. */
  cert?: string | undefined;
  /** The private key of `cert`. */
  key?: string | undefined;
  /** The name in the server's certificate, if it is not that of the address. */
  serverName?: string | undefined;
}

/** The options of a client. The environment says what they leave open. */
export interface ClientOptions {
  /**
   * `host:port`, any other gRPC target such as `dns:///gateways.example:50050`, or several IP
   * addresses, `10.0.0.1:50050,10.0.0.2:50050`. Calls go round all addresses of a name or list.
   * Default: SENTINEL_ADDRESS, else `127.0.0.1:50050`.
   */
  address?: string;
  /**
   * How to use TLS; `true`: with the CAs of Node.js; `false`: no TLS. Default: SENTINEL_TLS_CA,
   * SENTINEL_TLS_CERT, SENTINEL_TLS_KEY and SENTINEL_TLS_SERVER_NAME; `SENTINEL_TLS=1` for `true`.
   */
  tls?: Tls | boolean;
  /**
   * The API key or token of each call, or a function that returns the present one. Default:
   * SENTINEL_API_KEY, else what the file SENTINEL_API_KEY_FILE holds.
   */
  apiKey?: string | (() => string);
  /** Milliseconds for a call that only reads, retries included; default 30,000. */
  readTimeoutMs?: number;
  /** Milliseconds for a call that writes, and for an acknowledgement; default 120,000. */
  writeTimeoutMs?: number;
  /** Interceptors of grpc-js, for tracing. */
  interceptors?: Interceptor[];
}

export const MIB = 1024 * 1024;
/** The largest message in either direction. */
export const MAX_MESSAGE_BYTES = 64 * MIB;
/** Most attempts of a call, the first one included. */
export const MAX_ATTEMPTS = 5;
const DEFAULT_ADDRESS = "127.0.0.1:50050";

const SERVICES: DescService[] = [
  SearchService,
  ItemService,
  CollectionService,
  EmbeddingService,
  AccessService,
];

const LOOPBACK = new BlockList();
LOOPBACK.addSubnet("127.0.0.0", 8, "ipv4");
LOOPBACK.addAddress("::1", "ipv6");

/** Return whether the contract marks a method as safe to repeat. */
export function isRepeatable(method: DescMethod): boolean {
  return method.idempotency !== Idempotency.IDEMPOTENCY_UNKNOWN;
}

/**
 * Retries by gRPC itself, for the methods that the contract marks as safe to repeat. The gateway
 * names its own pause in `grpc-retry-pushback-ms`, which gRPC follows.
 */
function serviceConfig(): string {
  const repeatable = SERVICES.flatMap((service) =>
    service.methods
      .filter(isRepeatable)
      .map((method) => ({ service: service.typeName, method: method.name })),
  );
  return JSON.stringify({
    loadBalancingConfig: [{ round_robin: {} }],
    methodConfig: [
      {
        name: repeatable,
        retryPolicy: {
          maxAttempts: MAX_ATTEMPTS,
          initialBackoff: "0.2s",
          maxBackoff: "5s",
          backoffMultiplier: 2,
          retryableStatusCodes: ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
        },
      },
    ],
    // After 500 failures, retries are a fifth of the successful calls: more would keep overloaded
    // gateways overloaded. So many, because the refusals of a gateway that is stopped count, too.
    retryThrottling: { maxTokens: 1000, tokenRatio: 0.2 },
  });
}

/** Return the options of the channel to `address`. */
export function channelOptions(address: string, tls: Tls | undefined): ChannelOptions {
  return {
    "grpc.service_config": serviceConfig(),
    // Else grpc-js asks DNS for another service config.
    "grpc.service_config_disable_resolution": 1,
    "grpc.max_send_message_length": MAX_MESSAGE_BYTES,
    "grpc.max_receive_message_length": MAX_MESSAGE_BYTES,
    // A request that does not fit into these buffers is not repeated.
    "grpc.per_rpc_retry_buffer_size": MAX_MESSAGE_BYTES,
    "grpc.retry_buffer_size": 4 * MAX_MESSAGE_BYTES,
    // The gateways accept a ping every 10 s. Pings between calls find a dead connection early.
    "grpc.keepalive_time_ms": 30_000,
    "grpc.keepalive_timeout_ms": 10_000,
    "grpc.keepalive_permit_without_calls": 1,
    // Reconnect within the time of the retries.
    "grpc.initial_reconnect_backoff_ms": 200,
    "grpc.max_reconnect_backoff_ms": 3_000,
    ...(isOnThisMachine(address) ? { "grpc.enable_http_proxy": 0 } : {}),
    ...(tls?.serverName ? { "grpc.ssl_target_name_override": tls.serverName } : {}),
  };
}

/** Return the address that the options, or the environment, give. */
export function resolveAddress(given: string | undefined): string {
  const address = given || process.env.SENTINEL_ADDRESS || DEFAULT_ADDRESS;
  if (/^https?:/.test(address)) {
    throw new TypeError(`the address is host:port, without a scheme, not ${address}`);
  }
  return address;
}

/** Return the gRPC target of an address: a list becomes one target. */
export function targetOf(address: string): string {
  const parts = address.split(",").map((part) => part.trim());
  if (parts.length === 1 || /^ipv[46]:/.test(address)) {
    return address;
  }
  for (const [scheme, isOfKind] of [
    ["ipv4", isIPv4],
    ["ipv6", isIPv6],
  ] as const) {
    if (parts.every((part) => isOfKind(hostOf(part)))) {
      return `${scheme}:${parts.join(",")}`;
    }
  }
  throw new TypeError(
    `${address}: a list must hold IP addresses of one kind; give several hosts one name in DNS`,
  );
}

/** Return the TLS that the options, or the environment, ask for; undefined: none. */
export function resolveTls(given: Tls | boolean | undefined): Tls | undefined {
  if (given !== undefined) {
    return given === true ? {} : given || undefined;
  }
  const { env } = process;
  const ca = env.SENTINEL_TLS_CA || undefined;
  const cert = env.SENTINEL_TLS_CERT || undefined;
  if (!ca && !cert && !isYes(env.SENTINEL_TLS)) {
    return undefined;
  }
  const key = env.SENTINEL_TLS_KEY || undefined;
  return { ca, cert, key, serverName: env.SENTINEL_TLS_SERVER_NAME || undefined };
}

/** Return the credentials of the channel. Throws if a file cannot be read. */
export function channelCredentials(tls: Tls | undefined): ChannelCredentials {
  if (tls === undefined) {
    return credentials.createInsecure();
  }
  if (Boolean(tls.cert) !== Boolean(tls.key)) {
    throw new TypeError("a client certificate and its key belong together; give both");
  }
  const [ca, key, cert] = [tls.ca, tls.key, tls.cert].map((file) =>
    file ? readFileSync(file) : null,
  );
  return credentials.createSsl(ca, key, cert);
}

/**
 * Return a function that returns the present key; "": none.
 *
 * Throws TypeError if a key would travel to another machine for all to read.
 */
export function resolveApiKey(
  given: string | (() => string) | undefined,
  address: string,
  tls: Tls | undefined,
): () => string {
  const { env } = process;
  const key = given ?? env.SENTINEL_API_KEY?.trim() ?? "";
  const file = key === "" ? env.SENTINEL_API_KEY_FILE : undefined;
  const isSafe = tls !== undefined || isOnThisMachine(address) || isYes(env.SENTINEL_INSECURE);
  if ((key !== "" || file) && !isSafe) {
    throw new TypeError(
      `${address} is another machine, and without TLS everybody on the way can read the API key: ` +
        "set SENTINEL_TLS_CA to the server's CA, or SENTINEL_TLS=1; set SENTINEL_INSECURE=1 only " +
        "if something else encrypts the connection",
    );
  }
  if (file) {
    return () => readFileSync(file, "ascii").trim(); // may be replaced at any time
  }
  return typeof key === "function" ? key : () => key;
}

function isYes(value: string | undefined): boolean {
  return value === "1" || value === "true";
}

function isOnThisMachine(address: string): boolean {
  return (
    address.startsWith("unix:") ||
    address
      .replace(/^ipv[46]:|^dns:(\/\/\/)?/, "")
      .split(",")
      .map((part) => hostOf(part.trim()))
      .every(
        (host) =>
          host === "localhost" ||
          (isIPv4(host) && LOOPBACK.check(host, "ipv4")) ||
          (isIPv6(host) && LOOPBACK.check(host, "ipv6")),
      )
  );
}

/** Return the host of `host:port` or `[ipv6]:port`. */
function hostOf(address: string): string {
  const bracketed = /^\[([^\]]*)\]/.exec(address);
  return bracketed?.[1] ?? address.replace(/:\d*$/, "");
}
