/** Values of fields, and filters on them. */

import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";

import {
  Comparison_Operator as Operator,
  FieldValueSchema,
  FilterSchema,
  GeoComparisonSchema,
  type FieldValue as FieldValueMessage,
  type Filter,
} from "./gen/typescript/sentinel/search/v1/filter_pb.js";

export type { Filter };

/** A place on Earth, in degrees: the value of a GEO field. */
export interface GeoPoint {
  readonly latitude: number;
  readonly longitude: number;
}

/** A value that can be compared. */
export type Scalar = string | number | bigint | boolean | Date;

/**
 * The value of a field. A whole number is an INT64, which DOUBLE fields accept, too. In answers,
 * an INT64 beyond 2^53 is a bigint. A TIMESTAMP is a Date, which has milliseconds; the gateway
 * keeps microseconds, which answers leave out.
 */
export type FieldValue = Scalar | readonly string[] | GeoPoint;
export type Fields = Readonly<Record<string, FieldValue>>;

export function fieldValueToProto(value: FieldValue): MessageInitShape<typeof FieldValueSchema> {
  switch (typeof value) {
    case "string":
      return { kind: { case: "stringValue", value } };
    case "boolean":
      return { kind: { case: "boolValue", value } };
    case "bigint":
      return { kind: { case: "intValue", value } };
    case "number":
      return Number.isSafeInteger(value)
        ? { kind: { case: "intValue", value: BigInt(value) } }
        : { kind: { case: "doubleValue", value } };
  }
  if (value instanceof Date) {
    return { kind: { case: "timestampValue", value: timestampFromDate(value) } };
  }
  return "latitude" in value
    ? { kind: { case: "geoValue", value } }
    : { kind: { case: "listValue", value: { values: [...value] } } };
}

export function fieldsToProto(fields: Fields): Record<string, FieldValueMessage> {
  return Object.fromEntries(
    Object.entries(fields).map(([name, value]) => [
      name,
      create(FieldValueSchema, fieldValueToProto(value)),
    ]),
  );
}

export function fieldsFromProto(fields: Record<string, FieldValueMessage>): Fields {
  const found: Record<string, FieldValue> = {};
  for (const [name, { kind }] of Object.entries(fields)) {
    if (kind.case === "intValue") {
      const number = Number(kind.value);
      found[name] = Number.isSafeInteger(number) ? number : kind.value;
    } else if (kind.case === "listValue") {
      found[name] = kind.value.values;
    } else if (kind.case === "timestampValue") {
      // Cut off, not rounded: or an item is not `atLeast` its own time.
      const { seconds, nanos } = kind.value;
      found[name] = new Date(Number(seconds) * 1000 + Math.floor(nanos / 1e6));
    } else if (kind.case === "geoValue") {
      const { latitude, longitude } = kind.value;
      found[name] = { latitude, longitude };
    } else if (kind.case !== undefined) {
      found[name] = kind.value;
    }
  }
  return found;
}

/** The comparisons of one field: `field("year").atLeast(2000)`. */
export function field(name: string) {
  const compare =
    (operator: Operator) =>
    (...values: Scalar[]): Filter =>
      create(FilterSchema, {
        kind: {
          case: "comparison",
          value: { field: name, operator, values: values.map(fieldValueToProto) },
        },
      });
  const one = (operator: Operator) => (value: Scalar) => compare(operator)(value);
  return {
    equals: one(Operator.EQUAL),
    /** Another value, or none. */
    differsFrom: one(Operator.NOT_EQUAL),
    lessThan: one(Operator.LESS),
    atMost: one(Operator.LESS_OR_EQUAL),
    greaterThan: one(Operator.GREATER),
    atLeast: one(Operator.GREATER_OR_EQUAL),
    isOneOf: compare(Operator.IN),
    /** None of the values, or no value at all. */
    isNoneOf: compare(Operator.NOT_IN),
    startsWith: one(Operator.PREFIX),
    exists: () => compare(Operator.EXISTS)(),
    /** A string with this text in it, or a list of strings that has this one; case matters. */
    contains: one(Operator.CONTAINS),
    /** A place between two latitudes and two longitudes. East < west crosses the 180th meridian. */
    within: (south: number, west: number, north: number, east: number): Filter =>
      inArea(name, { case: "bounds", value: { south, west, north, east } }),
    /** A place at most so many meters from a point, to 2 % of the distance. */
    near: (center: GeoPoint, radiusMeters: number): Filter =>
      inArea(name, { case: "circle", value: { center, radiusMeters } }),
  };
}

type Area = NonNullable<MessageInitShape<typeof GeoComparisonSchema>["area"]>;

function inArea(field: string, area: Area): Filter {
  return create(FilterSchema, { kind: { case: "geo", value: { field, area } } });
}

/** Items that match all filters. */
export function allOf(...filters: Filter[]): Filter {
  return create(FilterSchema, { kind: { case: "allOf", value: { filters } } });
}

/** Items that match at least one filter. */
export function anyOf(...filters: Filter[]): Filter {
  return create(FilterSchema, { kind: { case: "anyOf", value: { filters } } });
}

/** Items that match no filter. */
export function noneOf(...filters: Filter[]): Filter {
  return create(FilterSchema, { kind: { case: "noneOf", value: { filters } } });
}
