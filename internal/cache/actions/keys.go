package actions

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// API is GitHub's REST API, which lists the keys of a repository's entries.
type API struct{ URL, Repository, Token string }

const (
	perPage = 100
	// maxPages bounds a list; there is no entry any more after that many.
	maxPages = 100
	// maxPage is the size in bytes of the largest page.
	maxPage = 1 << 20
)

// Keys lists the keys that begin with a prefix in the scopes of a client's token.
func (c *Client) Keys(ctx context.Context, api API, prefix string) (map[string]bool, error) {
	base, err := url.Parse(api.URL)
	owner, name, ok := strings.Cut(api.Repository, "/")
	if err != nil || base.Host == "" || !ok || strings.Contains(name, "/") {
		return nil, fmt.Errorf("listing the caches of repository %q: it is not OWNER/NAME, or the address of GitHub's API is not valid", api.Repository)
	}
	lists := &Client{opts: Options{Token: api.Token, Timeout: c.opts.Timeout}, base: base, Tune: c.Tune, http: c.newHTTP()}
	all := map[string]bool{}
	for _, s := range c.scopes {
		for page := 1; page <= maxPages; page++ {
			more, err := lists.page(ctx, base.JoinPath("repos", url.PathEscape(owner), url.PathEscape(name), "actions/caches"),
				url.Values{"per_page": {strconv.Itoa(perPage)}, "page": {strconv.Itoa(page)}, "key": {prefix}, "ref": {s.Scope}}, all)
			if err != nil {
				return nil, err
			}
			if !more {
				break
			}
		}
	}
	return all, nil
}

// page adds the keys of one page, and reports whether there is another one.
func (c *Client) page(ctx context.Context, to *url.URL, query url.Values, all map[string]bool) (bool, error) {
	r, err := c.message("listing caches", http.MethodGet, "", nil)
	if err != nil {
		return false, err
	}
	r.to = to
	r.to.RawQuery = query.Encode()
	r.header.Set("Accept", "application/vnd.github+json")
	r.header.Set("X-GitHub-Api-Version", "2022-11-28")
	resp, err := c.do(ctx, r)
	if err != nil {
		return false, err
	}
	var list struct {
		Caches []struct{ Key string } `json:"actions_caches"`
	}
	err = json.NewDecoder(io.LimitReader(resp.Body, maxPage)).Decode(&list)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		return false, fmt.Errorf("listing caches: reading the answer of %s: %w", to.Host, err)
	}
	for _, e := range list.Caches {
		all[e.Key] = true
	}
	return len(list.Caches) == perPage, nil
}
