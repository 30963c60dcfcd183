package sentinel

import (
	"context"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	searchv1 "sentinel.internal/go/sentinel/search/v1"
)

const (
	maxIDs     = 1000 // in one GetItems
	maxIDBytes = 256
)

// Result is what became of one item of [Client.Upsert].
type Result struct {
	// ID is the item's id, given or derived from its content.
	ID string
	// Unchanged is true if the item was stored before with the same content and fields.
	Unchanged bool
	// Err is nil if the item is stored durably; else an [*Error], and the item is not stored.
	Err error
}

// Upsert stores one batch of items, at most 256 and 14 MiB; [Client.Ingest] is for more. It
// returns one result for each item, in order: a bad item fails alone.
func (c *Client) Upsert(
	ctx context.Context, collection string, items ...*searchv1.Item,
) ([]Result, error) {
	response, err := c.ItemService.UpsertItems(ctx, &searchv1.UpsertItemsRequest{
		Collection: collection, Items: items,
	})
	if err != nil {
		return nil, err
	}
	results := make([]Result, len(response.Results))
	for i, one := range response.Results {
		results[i] = Result{
			ID:        one.Id,
			Unchanged: one.Outcome == searchv1.ItemResult_OUTCOME_UNCHANGED,
		}
		if one.Error != nil {
			results[i].Err = itemError(one.Error)
		}
	}
	return results, nil
}

// Digests returns the digests of those of the items that are stored, by id. A digest is the hex
// SHA-256 of the stored image file or text. With it, an ingest that ended early goes on with what
// is missing: see examples/folder.
//
// An id that no item can have is not asked for: it has no digest, and an ingest refuses only the
// item that has it.
func (c *Client) Digests(
	ctx context.Context, collection string, ids []string,
) (map[string]string, error) {
	possible := make([]string, 0, len(ids))
	for _, id := range ids {
		if isID(id) {
			possible = append(possible, id)
		}
	}
	digests := make(map[string]string, len(possible))
	for left := range slices.Chunk(possible, maxIDs) {
		for len(left) > 0 {
			response, err := c.ItemService.GetItems(ctx, &searchv1.GetItemsRequest{
				Collection: collection, Ids: left,
			})
			if err != nil {
				return nil, err
			}
			for _, item := range response.Items {
				digests[item.Id] = item.Digest
			}
			left = response.UnreadIds // the items of these did not fit into the response
		}
	}
	return digests, nil
}

// isID checks the contract's rules for ids. gRPC sends no string that is not UTF-8.
func isID(id string) bool {
	return id != "" && len(id) <= maxIDBytes && utf8.ValidString(id) &&
		!strings.ContainsFunc(id, unicode.IsControl)
}
