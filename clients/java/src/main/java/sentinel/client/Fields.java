package sentinel.client;

import com.google.protobuf.Timestamp;
import java.time.Instant;
import java.util.List;
import sentinel.search.v1.FieldValue;
import sentinel.search.v1.GeoPoint;
import sentinel.search.v1.StringList;

/** Makes the values of fields. */
public final class Fields {
  private Fields() {}

  /** A value of a STRING field. */
  public static FieldValue of(String value) {
    return FieldValue.newBuilder().setStringValue(value).build();
  }

  /** A value of an INT64 field. */
  public static FieldValue of(long value) {
    return FieldValue.newBuilder().setIntValue(value).build();
  }

  /** A value of a DOUBLE field. */
  public static FieldValue of(double value) {
    return FieldValue.newBuilder().setDoubleValue(value).build();
  }

  /** A value of a BOOL field. */
  public static FieldValue of(boolean value) {
    return FieldValue.newBuilder().setBoolValue(value).build();
  }

  /** A value of a STRING_LIST field. */
  public static FieldValue of(List<String> values) {
    return FieldValue.newBuilder()
        .setListValue(StringList.newBuilder().addAllValues(values))
        .build();
  }

  /** A value of a TIMESTAMP field, which is kept to the microsecond. */
  public static FieldValue of(Instant value) {
    return FieldValue.newBuilder()
        .setTimestampValue(
            Timestamp.newBuilder().setSeconds(value.getEpochSecond()).setNanos(value.getNano()))
        .build();
  }

  /** A value of a GEO field, in degrees. */
  public static FieldValue place(double latitude, double longitude) {
    return FieldValue.newBuilder()
        .setGeoValue(GeoPoint.newBuilder().setLatitude(latitude).setLongitude(longitude))
        .build();
  }
}
