/** Values of fields, and filters on them. */

import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { timestampDate, timestampFromDate } from "@bufbuild/protobuf/wkt";

import {
  Comparison_Operator as Operator,
  FieldValueSchema,
  FilterSchema,
  GeoComparisonSchema,
  type FieldValue as FieldValueMessage,
  type Filter,
} from "./gen/typescript/sentinel/search/v1/filter_pb.js";

export type { Filter };

/** A place on Earth, in degrees of WGS 84: north of the equator, and east of Greenwich. */
export interface GeoPoint {
  readonly latitude: number;
  readonly longitude: number;
}

/**
 * The value of a field. A whole number is an INT64, which DOUBLE fields accept, too. In answers,
 * an INT64 beyond 2^53 is a bigint. A Date has milliseconds; the microseconds of a TIMESTAMP are
 * cut off.
 */
export type FieldValue =
  | string
  | number
  | bigint
  | boolean
  | readonly string[]
  | Date
  | GeoPoint;
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
    default:
      if (value instanceof Date) {
        return { kind: { case: "timestampValue", value: timestampFromDate(value) } };
      }
      return "latitude" in value
        ? { kind: { case: "geoValue", value } }
        : { kind: { case: "listValue", value: { values: [...value] } } };
  }
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
      found[name] = timestampDate(kind.value);
    } else if (kind.case === "geoValue") {
      found[name] = { latitude: kind.value.latitude, longitude: kind.value.longitude };
    } else if (kind.case !== undefined) {
      found[name] = kind.value;
    }
  }
  return found;
}

function area(
  field: string,
  area: NonNullable<MessageInitShape<typeof GeoComparisonSchema>["area"]>,
): Filter {
  return create(FilterSchema, { kind: { case: "geo", value: { field, area } } });
}

/** The comparisons of one field: `field("year").atLeast(2000)`. */
export function field(name: string) {
  const compare =
    (operator: Operator) =>
    (...values: FieldValue[]): Filter =>
      create(FilterSchema, {
        kind: {
          case: "comparison",
          value: { field: name, operator, values: values.map(fieldValueToProto) },
        },
      });
  const one = (operator: Operator) => (value: FieldValue) => compare(operator)(value);
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
    /** A string that contains this text, or a list of strings that has this one. */
    contains: one(Operator.CONTAINS),
    /** A place between two latitudes and two longitudes, in degrees. */
    within: (south: number, west: number, north: number, east: number): Filter =>
      area(name, { case: "bounds", value: { south, west, north, east } }),
    /** A place at most so many meters from another one, to 2 % of them. */
    near: (center: GeoPoint, radiusMeters: number): Filter =>
      area(name, { case: "circle", value: { center, radiusMeters } }),
  };
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
