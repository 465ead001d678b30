package actions

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
)

// v2 is the service of twirp messages. It names places in a blob store of Azure's.
type v2 struct{}

func (c *Client) message2(what, method string, v any) (request, error) {
	return c.message(what, http.MethodPost, "twirp/github.actions.results.api.v1.CacheService/"+method, v)
}

func (v2) find(ctx context.Context, c *Client, key string) (*Entry, error) {
	r, err := c.message2("looking up "+key, "GetCacheEntryDownloadURL",
		map[string]any{"key": key, "restore_keys": []string{key}, "version": versionOf()})
	if err != nil {
		return nil, err
	}
	var e struct {
		OK  bool   `json:"ok"`
		URL string `json:"signed_download_url"`
		Key string `json:"matched_key"`
	}
	if err := c.ask(ctx, r, &e); err != nil || !e.OK {
		return nil, err
	}
	return entry(e.Key, e.URL)
}

func (v2) reserve(ctx context.Context, c *Client, key string) (string, error) {
	r, err := c.message2("reserving "+key, "CreateCacheEntry", map[string]string{"key": key, "version": versionOf()})
	if err != nil {
		return "", err
	}
	r.once = true
	var e struct {
		OK      bool   `json:"ok"`
		URL     string `json:"signed_upload_url"`
		Message string `json:"message"`
	}
	if err := c.ask(ctx, r, &e); err != nil {
		return "", err
	}
	if !e.OK {
		return "", errors.New(r.what + ": the cache service refuses it: " + c.clean(e.Message))
	}
	_, err = entry(key, e.URL)
	return e.URL, err
}

// azureVersion is the version of the blob store's protocol.
const azureVersion = "2024-11-04"

func (v2) upload(ctx context.Context, c *Client, place string, rd io.Reader, size int64) error {
	at, err := url.Parse(place)
	if err != nil {
		return errors.New("uploading: the cache service gives no address")
	}
	if size <= int64(c.Tune.Chunk) {
		var whole []byte
		if err := c.chunks(rd, size, func(_ int64, data []byte) error { whole = data; return nil }); err != nil {
			return err
		}
		return c.azure(ctx, at, nil, whole, "BlockBlob")
	}
	list := bytes.NewBufferString(`<?xml version="1.0" encoding="utf-8"?><BlockList>`)
	err = c.chunks(rd, size, func(offset int64, data []byte) error {
		id := base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "%020d", offset))
		fmt.Fprintf(list, "<Latest>%s</Latest>", id)
		return c.azure(ctx, at, url.Values{"comp": {"block"}, "blockid": {id}}, data, "")
	})
	if err != nil {
		return err
	}
	list.WriteString("</BlockList>")
	return c.azure(ctx, at, url.Values{"comp": {"blocklist"}}, list.Bytes(), "")
}

// azure sends a request to the blob store: the address is signed, and takes further parameters.
func (c *Client) azure(ctx context.Context, at *url.URL, params url.Values, body []byte, kind string) error {
	to := *at
	if len(params) > 0 {
		to.RawQuery += "&" + params.Encode()
	}
	r := request{method: http.MethodPut, to: &to, body: body, what: "uploading", header: http.Header{"X-Ms-Version": {azureVersion}}}
	if kind != "" {
		r.header.Set("X-Ms-Blob-Type", kind)
	}
	return c.ask(ctx, r, nil)
}

func (v2) commit(ctx context.Context, c *Client, key, _ string, size int64) error {
	r, err := c.message2("committing "+key, "FinalizeCacheEntryUpload",
		map[string]any{"key": key, "size_bytes": size, "version": versionOf()})
	if err != nil {
		return err
	}
	r.once = true
	var e struct {
		OK      bool   `json:"ok"`
		Message string `json:"message"`
	}
	if err := c.ask(ctx, r, &e); err != nil {
		return err
	}
	if !e.OK {
		return errors.New(r.what + ": the cache service refuses it: " + c.clean(e.Message))
	}
	return nil
}
