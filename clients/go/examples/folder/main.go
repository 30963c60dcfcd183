// Folder stores the pictures of a folder and searches them:
//
//	go run ./examples/folder -ingest ~/Pictures
//	go run ./examples/folder -search "a cat"
//
// Stop it at any time and run it again: it goes on with the pictures that are missing or have
// changed. SENTINEL_ADDRESS has one gateway or several (a:50050,b:50050), SENTINEL_API_KEY the key,
// and SENTINEL_TLS_CA the PEM file of the CA if the gateway uses TLS.
package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"iter"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"

	sentinel "sentinel.internal/go"
	searchv1 "sentinel.internal/go/sentinel/search/v1"
)

func main() {
	log.SetFlags(0)
	collection := flag.String("collection", "go_pictures", "where the pictures are")
	folder := flag.String("ingest", "", "a folder with pictures")
	query := flag.String("search", "", "what to search for")
	flag.Parse()
	if *folder == "" && *query == "" {
		flag.Usage()
		os.Exit(2)
	}
	client, err := connect()
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if *folder != "" {
		if err := ingest(ctx, client, *collection, *folder); err != nil {
			log.Fatal(err)
		}
	}
	if *query != "" {
		if err := search(ctx, client, *collection, *query); err != nil {
			log.Fatal(err)
		}
	}
}

func connect() (*sentinel.Client, error) {
	options := sentinel.Options{APIKey: os.Getenv("SENTINEL_API_KEY")}
	if ca := os.Getenv("SENTINEL_TLS_CA"); ca != "" {
		var err error
		if options.TLS, err = sentinel.TLSFromFile(ca); err != nil {
			return nil, err
		}
	}
	return sentinel.New(cmp.Or(os.Getenv("SENTINEL_ADDRESS"), "127.0.0.1:50050"), options)
}

// ingest stores the pictures that are not stored yet. The id of each is its path in the folder.
func ingest(ctx context.Context, client *sentinel.Client, collection, folder string) error {
	_, err := client.CollectionService.CreateCollection(ctx, &searchv1.CreateCollectionRequest{
		Collection: &searchv1.Collection{Name: collection},
	})
	var failure *sentinel.Error
	if errors.As(err, &failure) && failure.Reason != "COLLECTION_EXISTS" {
		return err
	}
	ids, err := pictures(folder)
	if err != nil {
		return err
	}
	digests, err := client.Digests(ctx, collection, ids)
	if err != nil {
		return err
	}
	stored, failed := 0, 0
	for ack, err := range client.Ingest(ctx, collection, missing(folder, ids, digests)) {
		if err != nil {
			return fmt.Errorf("%w; run it again to go on", err)
		}
		if ack.Err != nil {
			failed++
			fmt.Printf("%s: %v\n", ack.Item.Id, ack.Err)
			continue
		}
		stored++
		fmt.Println(ack.Item.Id)
	}
	fmt.Printf("stored %d, failed %d, there before %d\n", stored, failed, len(ids)-stored-failed)
	return nil
}

// missing yields the pictures whose files have other digests than the stored ones.
func missing(folder string, ids []string, digests map[string]string) iter.Seq[*searchv1.Item] {
	return func(yield func(*searchv1.Item) bool) {
		for _, id := range ids {
			file, err := os.ReadFile(filepath.Join(folder, filepath.FromSlash(id)))
			if err != nil {
				log.Print(err)
				continue
			}
			digest := sha256.Sum256(file)
			item := &searchv1.Item{Id: id, Content: sentinel.ImageContent(file)}
			if digests[id] != hex.EncodeToString(digest[:]) && !yield(item) {
				return
			}
		}
	}
}

// pictures returns the paths of the pictures in a folder.
func pictures(folder string) ([]string, error) {
	kinds := []string{".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
	var found []string
	err := filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !slices.Contains(kinds, strings.ToLower(filepath.Ext(path))) {
			return err
		}
		id, err := filepath.Rel(folder, path)
		found = append(found, filepath.ToSlash(id))
		return err
	})
	return found, err
}

func search(ctx context.Context, client *sentinel.Client, collection, query string) error {
	limit := int32(5)
	for hit, err := range client.Search(ctx, &searchv1.SearchRequest{
		Params: &searchv1.SearchParams{Collection: collection, Query: sentinel.Text(query)},
		Limit:  &limit,
	}) {
		if err != nil {
			return err
		}
		fmt.Printf("%d  %.3f  %s\n", hit.Rank, hit.Score, hit.Id)
	}
	return nil
}
