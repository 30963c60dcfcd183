package sentinel

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	searchv1 "sentinel.internal/go/sentinel/search/v1"
)

// Scalar is a value that a filter compares with: of a STRING, INT64, DOUBLE, BOOL or TIMESTAMP
// field. Times are kept to the microsecond.
type Scalar interface {
	string | int | int64 | float64 | bool | time.Time
}

// Value returns the value of a field. A GEO field takes a [Place].
func Value[T Scalar | []string | *searchv1.GeoPoint](value T) *searchv1.FieldValue {
	switch value := any(value).(type) {
	case string:
		return &searchv1.FieldValue{Kind: &searchv1.FieldValue_StringValue{StringValue: value}}
	case int:
		return &searchv1.FieldValue{Kind: &searchv1.FieldValue_IntValue{IntValue: int64(value)}}
	case int64:
		return &searchv1.FieldValue{Kind: &searchv1.FieldValue_IntValue{IntValue: value}}
	case float64:
		return &searchv1.FieldValue{Kind: &searchv1.FieldValue_DoubleValue{DoubleValue: value}}
	case bool:
		return &searchv1.FieldValue{Kind: &searchv1.FieldValue_BoolValue{BoolValue: value}}
	case time.Time:
		at := timestamppb.New(value)
		return &searchv1.FieldValue{Kind: &searchv1.FieldValue_TimestampValue{TimestampValue: at}}
	case []string:
		list := &searchv1.StringList{Values: value}
		return &searchv1.FieldValue{Kind: &searchv1.FieldValue_ListValue{ListValue: list}}
	case *searchv1.GeoPoint:
		return &searchv1.FieldValue{Kind: &searchv1.FieldValue_GeoValue{GeoValue: value}}
	default:
		panic(fmt.Sprintf("sentinel: no field has the type %T", value)) // the compiler refuses others
	}
}

// Place returns a place on Earth, in degrees.
func Place(latitude, longitude float64) *searchv1.GeoPoint {
	return &searchv1.GeoPoint{Latitude: latitude, Longitude: longitude}
}

// Equal selects the items whose field has the value.
func Equal[T Scalar](field string, value T) *searchv1.Filter {
	return compare(field, searchv1.Comparison_OPERATOR_EQUAL, value)
}

// NotEqual selects the items whose field has another value, or none.
func NotEqual[T Scalar](field string, value T) *searchv1.Filter {
	return compare(field, searchv1.Comparison_OPERATOR_NOT_EQUAL, value)
}

// Less selects the items whose field is less than the value; times: before it.
func Less[T Scalar](field string, value T) *searchv1.Filter {
	return compare(field, searchv1.Comparison_OPERATOR_LESS, value)
}

// AtMost selects the items whose field is the value or less.
func AtMost[T Scalar](field string, value T) *searchv1.Filter {
	return compare(field, searchv1.Comparison_OPERATOR_LESS_OR_EQUAL, value)
}

// Greater selects the items whose field is greater than the value; times: after it.
func Greater[T Scalar](field string, value T) *searchv1.Filter {
	return compare(field, searchv1.Comparison_OPERATOR_GREATER, value)
}

// AtLeast selects the items whose field is the value or greater.
func AtLeast[T Scalar](field string, value T) *searchv1.Filter {
	return compare(field, searchv1.Comparison_OPERATOR_GREATER_OR_EQUAL, value)
}

// In selects the items whose field has one of the values.
func In[T Scalar](field string, values ...T) *searchv1.Filter {
	return compare(field, searchv1.Comparison_OPERATOR_IN, values...)
}

// NotIn selects the items whose field has none of the values, or no value at all.
func NotIn[T Scalar](field string, values ...T) *searchv1.Filter {
	return compare(field, searchv1.Comparison_OPERATOR_NOT_IN, values...)
}

// HasPrefix selects the items whose string begins with a text.
func HasPrefix(field, text string) *searchv1.Filter {
	return compare(field, searchv1.Comparison_OPERATOR_PREFIX, text)
}

// Contains selects the items whose string has a text in it, or whose list of strings has this one.
// Upper and lower case differ.
func Contains(field, text string) *searchv1.Filter {
	return compare(field, searchv1.Comparison_OPERATOR_CONTAINS, text)
}

// Exists selects the items that have the field.
func Exists(field string) *searchv1.Filter {
	return compare[string](field, searchv1.Comparison_OPERATOR_EXISTS)
}

// Near selects the items whose GEO field is at most so many meters from a [Place], to 2 % of that.
func Near(field string, center *searchv1.GeoPoint, meters float64) *searchv1.Filter {
	circle := &searchv1.GeoCircle{Center: center, RadiusMeters: meters}
	return area(&searchv1.GeoComparison{
		Field: field, Area: &searchv1.GeoComparison_Circle{Circle: circle},
	})
}

// Within selects the items whose GEO field is between two latitudes and two longitudes. If east is
// less than west, the area crosses the 180th meridian.
func Within(field string, south, west, north, east float64) *searchv1.Filter {
	bounds := &searchv1.GeoBounds{South: south, West: west, North: north, East: east}
	return area(&searchv1.GeoComparison{
		Field: field, Area: &searchv1.GeoComparison_Bounds{Bounds: bounds},
	})
}

// AllOf selects the items that match all filters.
func AllOf(filters ...*searchv1.Filter) *searchv1.Filter {
	list := &searchv1.Filters{Filters: filters}
	return &searchv1.Filter{Kind: &searchv1.Filter_AllOf{AllOf: list}}
}

// AnyOf selects the items that match at least one filter.
func AnyOf(filters ...*searchv1.Filter) *searchv1.Filter {
	list := &searchv1.Filters{Filters: filters}
	return &searchv1.Filter{Kind: &searchv1.Filter_AnyOf{AnyOf: list}}
}

// NoneOf selects the items that match no filter.
func NoneOf(filters ...*searchv1.Filter) *searchv1.Filter {
	list := &searchv1.Filters{Filters: filters}
	return &searchv1.Filter{Kind: &searchv1.Filter_NoneOf{NoneOf: list}}
}

func compare[T Scalar](
	field string, operator searchv1.Comparison_Operator, values ...T,
) *searchv1.Filter {
	comparison := &searchv1.Comparison{Field: field, Operator: operator}
	for _, value := range values {
		comparison.Values = append(comparison.Values, Value(value))
	}
	return &searchv1.Filter{Kind: &searchv1.Filter_Comparison{Comparison: comparison}}
}

func area(comparison *searchv1.GeoComparison) *searchv1.Filter {
	return &searchv1.Filter{Kind: &searchv1.Filter_Geo{Geo: comparison}}
}
