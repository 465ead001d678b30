package actions

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
)

// v1 is the service of "_apis/artifactcache".
type v1 struct{}

func (c *Client) message1(what, method, path string, v any) (request, error) {
	r, err := c.message(what, method, "_apis/artifactcache/"+path, v)
	r.header.Set("Accept", "application/json;api-version=6.0-preview.1")
	return r, err
}

func (v1) find(ctx context.Context, c *Client, key string) (*Entry, error) {
	r, err := c.message1("looking up "+key, http.MethodGet, "cache", nil)
	if err != nil {
		return nil, err
	}
	r.to.RawQuery = url.Values{"keys": {key}, "version": {versionOf()}}.Encode()
	var e struct {
		Key string `json:"cacheKey"`
		URL string `json:"archiveLocation"`
	}
	if err := c.ask(ctx, r, &e); err != nil || e.Key == "" {
		return nil, err
	}
	return entry(e.Key, e.URL)
}

func (v1) reserve(ctx context.Context, c *Client, key string) (string, error) {
	r, err := c.message1("reserving "+key, http.MethodPost, "caches", map[string]string{"key": key, "version": versionOf()})
	if err != nil {
		return "", err
	}
	r.once = true
	var e struct{ CacheID int64 }
	if err := c.ask(ctx, r, &e); err != nil {
		return "", err
	}
	if e.CacheID == 0 {
		return "", errors.New(r.what + ": the cache service gives no number")
	}
	return "caches/" + strconv.FormatInt(e.CacheID, 10), nil
}

func (v1) upload(ctx context.Context, c *Client, place string, rd io.Reader, size int64) error {
	return c.chunks(rd, size, func(offset int64, data []byte) error {
		r, err := c.message1("uploading", http.MethodPatch, place, nil)
		if err != nil {
			return err
		}
		r.body = data
		r.header.Set("Content-Type", "application/octet-stream")
		r.header.Set("Content-Range", fmt.Sprintf("bytes %d-%d/*", offset, offset+int64(len(data))-1))
		return c.ask(ctx, r, nil)
	})
}

func (v1) commit(ctx context.Context, c *Client, key, place string, size int64) error {
	r, err := c.message1("committing "+key, http.MethodPost, place, map[string]int64{"size": size})
	if err != nil {
		return err
	}
	r.once = true
	return c.ask(ctx, r, nil)
}
