package sentinel

import (
	"context"
	"errors"
	"io"
	"iter"

	"google.golang.org/grpc/codes"

	commonv1 "sentinel.internal/go/sentinel/common/v1"
	searchv1 "sentinel.internal/go/sentinel/search/v1"
)

// Search yields hits in rank order, best first, as they arrive:
//
//	for hit, err := range client.Search(ctx, &searchv1.SearchRequest{
//		Params: &searchv1.SearchParams{Collection: "photos", Query: sentinel.Text("a cat")},
//	}) { … }
//
// Leaving the loop ends the call. An error, of type [*Error], is the last value. A call that fails
// before its first hit has been repeated; after it, the error comes at once.
func (c *Client) Search(
	ctx context.Context, request *searchv1.SearchRequest,
) iter.Seq2[*searchv1.Hit, error] {
	return func(yield func(*searchv1.Hit, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		stream, err := c.SearchService.Search(ctx, request)
		if err != nil {
			yield(nil, err)
			return
		}
		complete := false
		for {
			response, err := stream.Recv()
			if errors.Is(err, io.EOF) && !complete {
				err = newError(codes.Internal, ReasonTruncated,
					"the stream ended without its summary, so hits may be missing; search again")
			}
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				yield(nil, err)
				return
			}
			for _, hit := range response.GetChunk().GetHits() {
				if !yield(hit, nil) {
					return
				}
			}
			complete = response.Summary != nil
		}
	}
}

// Text returns a query for what a text says.
func Text(text string) *searchv1.Query {
	return &searchv1.Query{Kind: &searchv1.Query_Content{Content: TextContent(text)}}
}

// Image returns a query for pictures like this file: JPEG, PNG, WebP, GIF, BMP or TIFF.
func Image(file []byte) *searchv1.Query {
	return &searchv1.Query{Kind: &searchv1.Query_Content{Content: ImageContent(file)}}
}

// TextContent returns a text to store, to embed, or to search for.
func TextContent(text string) *commonv1.Content {
	return &commonv1.Content{Kind: &commonv1.Content_Text{Text: text}}
}

// ImageContent returns an image file to store, to embed, or to search for.
func ImageContent(file []byte) *commonv1.Content {
	image := &commonv1.Image{Source: &commonv1.Image_Data{Data: file}}
	return &commonv1.Content{Kind: &commonv1.Content_Image{Image: image}}
}
