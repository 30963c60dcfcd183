/** The client of Sentinel's search gateway. */

export { SentinelClient } from "./client.js";
export type { FieldDeclaration, Hit, Query, SearchOptions, UpsertResult } from "./client.js";
export type { ClientOptions, Tls } from "./config.js";
export type { CallOptions } from "./connection.js";
export { Code, SentinelError } from "./errors.js";
export type { FieldViolation, Reason } from "./errors.js";
export type { Collection } from "./gen/typescript/sentinel/search/v1/collection_service_pb.js";
export type { SearchSummary } from "./gen/typescript/sentinel/search/v1/search_service_pb.js";
export type { IngestResult } from "./ingest.js";
export type { Image, Item, StoredItem } from "./items.js";
export { allOf, anyOf, field, noneOf } from "./values.js";
export type { Fields, FieldValue, Filter, GeoPoint, Scalar } from "./values.js";
