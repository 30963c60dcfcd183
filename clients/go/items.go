package sentinel

import (
	"context"

	searchv1 "sentinel.internal/go/sentinel/search/v1"
)

const maxIDs = 1000

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
func (c *Client) Digests(
	ctx context.Context, collection string, ids []string,
) (map[string]string, error) {
	digests := make(map[string]string, len(ids))
	for start := 0; start < len(ids); start += maxIDs {
		response, err := c.ItemService.GetItems(ctx, &searchv1.GetItemsRequest{
			Collection: collection, Ids: ids[start:min(start+maxIDs, len(ids))],
		})
		if err != nil {
			return nil, err
		}
		for _, item := range response.Items {
			digests[item.Id] = item.Digest
		}
	}
	return digests, nil
}
