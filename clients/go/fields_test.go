package sentinel_test

import (
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	sentinel "sentinel.internal/go"
	searchv1 "sentinel.internal/go/sentinel/search/v1"
)

var noon = time.Date(2021, 7, 3, 12, 0, 0, 123_456_000, time.UTC)

// typed returns an item with a field of each type; the fields have the names of the types.
func typed() *searchv1.Item {
	item := text("typed", "a note about a cat")
	item.Fields = map[string]*searchv1.FieldValue{
		"STRING":      sentinel.Value("/photos/2021/a.jpg"),
		"INT64":       sentinel.Value(int64(1) << 60),
		"DOUBLE":      sentinel.Value(0.5),
		"BOOL":        sentinel.Value(false),
		"STRING_LIST": sentinel.Value([]string{"a", ""}),
		"TIMESTAMP":   sentinel.Value(noon),
		"GEO":         sentinel.Value(sentinel.Place(48.14, 11.58)),
	}
	return item
}

// typedCollection creates a collection with a field of each type, and stores the item in it.
func typedCollection(t *testing.T, client *sentinel.Client, name string) string {
	t.Helper()
	wanted := &searchv1.Collection{Name: "go_" + name}
	for field := range typed().Fields {
		kind := searchv1.FieldSchema_Type(searchv1.FieldSchema_Type_value["TYPE_"+field])
		wanted.Fields = append(wanted.Fields, &searchv1.FieldSchema{Name: field, Type: kind})
	}
	_, err := client.CollectionService.CreateCollection(
		t.Context(), &searchv1.CreateCollectionRequest{Collection: wanted})
	if err != nil {
		t.Fatal(err)
	}
	results, err := client.Upsert(t.Context(), wanted.Name, typed())
	if err != nil || results[0].Err != nil {
		t.Fatal(results, err)
	}
	return wanted.Name
}

func TestValuesOfAllTypesComeBackAsTheyWereStored(t *testing.T) {
	client := plain(t)
	asked := request(typedCollection(t, client, "types"), sentinel.Text("a cat"))
	found := 0
	for hit, err := range client.Search(t.Context(), asked) {
		if err != nil {
			t.Fatal(err)
		}
		found++
		for name, stored := range typed().Fields {
			if !proto.Equal(hit.Fields[name], stored) {
				t.Errorf("%s: %v is not %v", name, hit.Fields[name], stored)
			}
		}
		if at := hit.Fields["TIMESTAMP"].GetTimestampValue().AsTime(); !at.Equal(noon) {
			t.Error(at)
		}
	}
	if found != 1 {
		t.Error(found)
	}
}

func TestFiltersCompareTimesPlacesAndPartsOfTexts(t *testing.T) {
	client := plain(t)
	name := typedCollection(t, client, "filters")
	matches := func(filter *searchv1.Filter) bool {
		t.Helper()
		asked := request(name, sentinel.Text("a cat"))
		asked.Params.Filter = filter
		found, err := ids(t.Context(), client, asked)
		if err != nil {
			t.Fatal(filter, err)
		}
		return len(found) == 1
	}
	munich, later := sentinel.Place(48.14, 11.58), noon.Add(time.Microsecond)
	for _, one := range []*searchv1.Filter{
		sentinel.Equal("BOOL", false), sentinel.NotEqual("STRING", "b"),
		sentinel.Less("TIMESTAMP", later), sentinel.AtMost("TIMESTAMP", noon),
		sentinel.Greater("DOUBLE", 0.4), sentinel.AtLeast("TIMESTAMP", noon),
		sentinel.In("INT64", 3, 1<<60), sentinel.NotIn("INT64", 3, 4),
		sentinel.HasPrefix("STRING", "/photos"), sentinel.Contains("STRING", "2021"),
		sentinel.Contains("STRING_LIST", "a"), sentinel.Exists("GEO"),
		sentinel.Near("GEO", munich, 1000), sentinel.Within("GEO", 48, 11, 49, 12),
		sentinel.AnyOf(sentinel.Exists("GEO"), sentinel.Equal("BOOL", true)),
	} {
		if !matches(one) || matches(sentinel.NoneOf(one)) {
			t.Error(one)
		}
	}
	for _, one := range []*searchv1.Filter{
		sentinel.AtLeast("TIMESTAMP", later), sentinel.Contains("STRING", "2022"),
		sentinel.Within("GEO", 40, 11, 41, 12), sentinel.Near("GEO", sentinel.Place(48, 11.58), 1000),
		sentinel.AllOf(sentinel.Exists("GEO"), sentinel.Less("TIMESTAMP", noon)),
	} {
		if matches(one) {
			t.Error(one)
		}
	}
}

func TestAHitTellsHowGoodItIs(t *testing.T) {
	client := plain(t)
	name := collection(t, client, "levels")
	if _, err := client.Upsert(t.Context(), name, photos(t)...); err != nil {
		t.Fatal(err)
	}
	// The gateway finds the levels in the background.
	eventually(t, "the level of a hit", func() bool {
		for hit, err := range client.Search(t.Context(), request(name, sentinel.Text("a cup of coffee"))) {
			if err != nil {
				t.Fatal(err)
			}
			return hit.Id == "coffee.png" && hit.MatchLevel == searchv1.MatchLevel_MATCH_LEVEL_STRONG
		}
		return false
	})
}
