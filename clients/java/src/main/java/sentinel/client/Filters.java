package sentinel.client;

import java.util.List;
import sentinel.search.v1.Comparison;
import sentinel.search.v1.Comparison.Operator;
import sentinel.search.v1.FieldValue;
import sentinel.search.v1.Filter;
import sentinel.search.v1.GeoBounds;
import sentinel.search.v1.GeoCircle;
import sentinel.search.v1.GeoComparison;
import sentinel.search.v1.GeoPoint;

/**
 * Makes filters, which select items by their fields: {@code Filters.atLeast("taken_at",
 * Fields.of(Instant.parse("2021-07-01T00:00:00Z")))}.
 */
public final class Filters {
  private Filters() {}

  /** The field has the value. */
  public static Filter equal(String field, FieldValue value) {
    return compare(field, Operator.OPERATOR_EQUAL, value);
  }

  /** The field has another value, or none. */
  public static Filter notEqual(String field, FieldValue value) {
    return compare(field, Operator.OPERATOR_NOT_EQUAL, value);
  }

  /** The field is less than the value; times: before it. */
  public static Filter less(String field, FieldValue value) {
    return compare(field, Operator.OPERATOR_LESS, value);
  }

  /** The field is the value or less. */
  public static Filter atMost(String field, FieldValue value) {
    return compare(field, Operator.OPERATOR_LESS_OR_EQUAL, value);
  }

  /** The field is greater than the value; times: after it. */
  public static Filter greater(String field, FieldValue value) {
    return compare(field, Operator.OPERATOR_GREATER, value);
  }

  /** The field is the value or greater. */
  public static Filter atLeast(String field, FieldValue value) {
    return compare(field, Operator.OPERATOR_GREATER_OR_EQUAL, value);
  }

  /** The field has one of the values. */
  public static Filter in(String field, FieldValue... values) {
    return compare(field, Operator.OPERATOR_IN, values);
  }

  /** The field has none of the values, or no value at all. */
  public static Filter notIn(String field, FieldValue... values) {
    return compare(field, Operator.OPERATOR_NOT_IN, values);
  }

  /** The string begins with a text. */
  public static Filter startsWith(String field, String text) {
    return compare(field, Operator.OPERATOR_PREFIX, Fields.of(text));
  }

  /** The string has a text in it, or the list of strings has this one; case matters. */
  public static Filter contains(String field, String text) {
    return compare(field, Operator.OPERATOR_CONTAINS, Fields.of(text));
  }

  /** The item has the field. */
  public static Filter exists(String field) {
    return compare(field, Operator.OPERATOR_EXISTS);
  }

  /** The place is at most so many meters from a point, to 2 % of that. */
  public static Filter near(String field, double latitude, double longitude, double meters) {
    GeoPoint center =
        GeoPoint.newBuilder().setLatitude(latitude).setLongitude(longitude).build();
    GeoCircle circle = GeoCircle.newBuilder().setCenter(center).setRadiusMeters(meters).build();
    return Filter.newBuilder()
        .setGeo(GeoComparison.newBuilder().setField(field).setCircle(circle))
        .build();
  }

  /**
   * The place is between two latitudes and two longitudes. If {@code east} is less than {@code
   * west}, the area crosses the 180th meridian.
   */
  public static Filter within(
      String field, double south, double west, double north, double east) {
    GeoBounds bounds =
        GeoBounds.newBuilder().setSouth(south).setWest(west).setNorth(north).setEast(east).build();
    return Filter.newBuilder()
        .setGeo(GeoComparison.newBuilder().setField(field).setBounds(bounds))
        .build();
  }

  /** All filters match. */
  public static Filter allOf(Filter... filters) {
    return Filter.newBuilder().setAllOf(list(filters)).build();
  }

  /** At least one filter matches. */
  public static Filter anyOf(Filter... filters) {
    return Filter.newBuilder().setAnyOf(list(filters)).build();
  }

  /** No filter matches. */
  public static Filter noneOf(Filter... filters) {
    return Filter.newBuilder().setNoneOf(list(filters)).build();
  }

  private static sentinel.search.v1.Filters list(Filter... filters) {
    return sentinel.search.v1.Filters.newBuilder().addAllFilters(List.of(filters)).build();
  }

  private static Filter compare(String field, Operator operator, FieldValue... values) {
    Comparison comparison =
        Comparison.newBuilder()
            .setField(field)
            .setOperator(operator)
            .addAllValues(List.of(values))
            .build();
    return Filter.newBuilder().setComparison(comparison).build();
  }
}
