package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/cache/actions"
	"github.com/slipway-build/slipway/internal/outbound"
	"github.com/slipway-build/slipway/internal/registry"
	"github.com/slipway-build/slipway/internal/store"
)

// github is a cache in that of GitHub Actions, with BuildKit's keys: an entry for each blob, and one for each
// version of the index, of which the newest counts. Entries belong to a ref of git; a job reads those of
// its own and of the default branch, and writes its own.
type github struct {
	scope  string // what tells caches of one repository apart
	opts   actions.Options
	api    actions.API // with a repository and a token it lists which blobs there are
	client *actions.Client
	err    error // why there is no client
}

// githubEnvironment adds what the environment of a job has. Outside of one there is no such cache.
// (Its rules are buildx'.)
func githubEnvironment(attrs map[string]string, env func(string) (string, bool)) (missing string) {
	set := func(attr string, names ...string) {
		if _, ok := attrs[attr]; ok {
			return
		}
		for _, name := range names {
			if v, ok := env(name); ok {
				attrs[attr] = v
				return
			}
		}
	}
	version, ok := attrs["version"]
	if v, there := env("ACTIONS_CACHE_SERVICE_V2"); !ok && there {
		if b, err := strconv.ParseBool(v); err == nil && b {
			version = "2"
		}
	}
	set("token", "ACTIONS_RUNTIME_TOKEN")
	if version == "2" {
		set("url_v2", "ACTIONS_RESULTS_URL")
	}
	set("url", "ACTIONS_CACHE_URL", "ACTIONS_RESULTS_URL")
	switch {
	case attrs["token"] == "":
		return "ACTIONS_RUNTIME_TOKEN is not set, and neither is token="
	case attrs["url"] == "" && attrs["url_v2"] == "":
		return "ACTIONS_RESULTS_URL and ACTIONS_CACHE_URL are not set, and neither is url="
	}
	return ""
}

// githubTo finds out before the build whether there is a token to export with, githubFrom when it imports: what
// cannot be imported is no failure.
func githubTo(_ *To, attrs map[string]string) (location, error) {
	g, err := parseGitHub(attrs)
	if err == nil {
		err = g.err
	}
	if err != nil {
		return nil, fmt.Errorf("failed to configure gha cache exporter: %w", err)
	}
	return g, nil
}

func githubFrom(attrs map[string]string) (location, error) {
	g, err := parseGitHub(attrs)
	if err != nil {
		return nil, fmt.Errorf("failed to configure gha cache importer: %w", err)
	}
	return g, nil
}

// parseGitHub reads attributes by BuildKit's rules.
func parseGitHub(attrs map[string]string) (*github, error) {
	g := &github{scope: "buildkit", opts: actions.Options{Token: attrs["token"], Timeout: 10 * time.Minute}}
	if v, ok := attrs["scope"]; ok {
		g.scope = v
	}
	version := 0
	if v, ok := attrs["version"]; ok {
		var err error
		if version, err = strconv.Atoi(v); err != nil {
			return nil, fmt.Errorf("failed to parse api version %q, expected positive integer", v)
		}
	}
	if v, ok := attrs["url_v2"]; ok && version != 1 {
		g.opts.URL, version = v, 2
	}
	if g.opts.URL == "" {
		g.opts.URL = attrs["url"]
	}
	if version == 0 && strings.Contains(g.opts.URL, "results-receiver.actions.githubusercontent.com") {
		version = 2
	}
	g.opts.V2 = version > 1
	if v, ok := attrs["timeout"]; ok {
		var err error
		if g.opts.Timeout, err = time.ParseDuration(v); err != nil {
			return nil, fmt.Errorf("failed to parse timeout for github actions cache: %w", err)
		}
	}
	g.api = actions.API{URL: "https://api.github.com", Repository: attrs["repository"], Token: attrs["ghtoken"]}
	if v := os.Getenv("GITHUB_API_URL"); v != "" {
		g.api.URL = v
	}
	g.client, g.err = actions.New(g.opts)
	return g, nil
}

func (g *github) title() string { return "exporting to GitHub Actions Cache" }
func (g *github) name() string  { return "gha:" + g.scope }

// where has what the service tells writers apart by: the repository, and the refs of git.
func (g *github) where() string {
	repository := g.api.Repository
	if repository == "" {
		repository = os.Getenv("GITHUB_REPOSITORY")
	}
	var refs []string
	if g.client != nil {
		for _, s := range g.client.Scopes() {
			refs = append(refs, s.Scope)
		}
	}
	return fmt.Sprintf("%q %q %q %q", outbound.Redact(g.opts.URL), repository, g.scope, refs)
}

func (g *github) open(*store.Store, *registry.Client) (place, error) {
	if g.err != nil {
		return nil, g.err
	}
	return &entries{github: g, pause: indexPause}, nil
}

// listed are the keys of blobs that the API lists; nil when it is not to be asked, or does not tell: then each
// blob is asked for.
func (g *github) listed(ctx context.Context) map[string]bool {
	if g.api.Repository == "" || g.api.Token == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	keys, err := g.client.Keys(ctx, g.api, blobPrefix)
	if err != nil {
		return nil
	}
	return keys
}

// entries is what is kept there.
type entries struct {
	*github
	pause time.Duration

	list  sync.Once // makes known, for the export that asks first: there is one
	known map[string]bool
}

const (
	blobPrefix = "buildkit-blob-1-"
	// maxIndexes is how many numbers of an index may be taken by somebody who never finished.
	maxIndexes = 16
	// indexPause and indexPauses say how long somebody who writes an index is waited for.
	indexPause  = 2 * time.Second
	indexPauses = 8
)

func blobKey(d digest.Digest) string { return blobPrefix + d.String() }

// indexKey is the beginning of the index's keys in a ref of git; a number follows.
func (e *entries) indexKey(ref string) string {
	return "index-" + e.scope + "-1-" + digest.FromString(ref).Encoded()[:8] + "#"
}

func (e *entries) load(ctx context.Context, _ platforms.MatchComparer, tell func(string)) (*contents, error) {
	var all *contents
	for _, s := range e.client.Scopes() { // those that come first have the last word
		if !s.Readable() {
			continue
		}
		c, err := e.loadIndex(ctx, s.Scope)
		if err != nil {
			return nil, err
		}
		if c == nil {
			tell("no cache of " + s.Scope)
			continue
		}
		tell("found cache of " + s.Scope)
		if all != nil {
			c.merge(all)
		}
		all = c
	}
	if all == nil {
		return decode(nil, nil), nil
	}
	return all, nil
}

// loadIndex reads the newest index of a ref; nil for none.
func (e *entries) loadIndex(ctx context.Context, ref string) (*contents, error) {
	entry, err := e.client.Find(ctx, e.indexKey(ref), true)
	if err != nil || entry == nil {
		return nil, err
	}
	r, err := resume(ctx, -1, func(ctx context.Context, offset int64) (io.ReadCloser, error) {
		return e.client.Open(ctx, entry, offset)
	})
	if err != nil {
		return nil, err
	}
	data, err := readIndex(r)
	if err != nil {
		return nil, err
	}
	return decodeConfig(data, unlisted)
}

func (e *entries) open(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	return resume(ctx, desc.Size, func(ctx context.Context, offset int64) (io.ReadCloser, error) {
		// Addresses expire, so each is asked for when it is used.
		entry, err := e.client.Find(ctx, blobKey(desc.Digest), false)
		if err != nil {
			return nil, err
		}
		if entry == nil {
			return nil, fmt.Errorf("blob %s: %w", desc.Digest, errdefs.ErrNotFound)
		}
		return e.client.Open(ctx, entry, offset)
	})
}

func (e *entries) has(ctx context.Context, key string) (bool, error) {
	e.list.Do(func() { e.known = e.listed(ctx) })
	if e.known != nil {
		return e.known[key], nil
	}
	entry, err := e.client.Find(ctx, key, false)
	return entry != nil, err
}

func (e *entries) put(ctx context.Context, desc ocispec.Descriptor, open opener) (err error) {
	key := blobKey(desc.Digest)
	if has, err := e.has(ctx, key); err != nil || has {
		return err
	}
	r, err := open(ctx) // before the key is reserved, which cannot be taken back
	if err != nil {
		return err
	}
	err = errors.Join(e.client.Save(ctx, key, desc.Size, r), r.Close())
	if errors.Is(err, actions.ErrExists) {
		return nil // somebody else writes the same
	}
	return err
}

func (e *entries) commit(ctx context.Context, x *exporting, _ []ocispec.Descriptor) (ocispec.Descriptor, error) {
	ref := ""
	for _, s := range e.client.Scopes() {
		if s.Writable() {
			ref = s.Scope
		}
	}
	if ref == "" {
		return ocispec.Descriptor{}, errors.New("the token of the cache service gives no permission to write")
	}
	data, err := x.marshal()
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return ocispec.Descriptor{}, x.telling("sending cache export", func() error { return e.saveIndex(ctx, e.indexKey(ref), data) })
}

// saveIndex writes an index under the number after the newest one's. A number that somebody else has taken is
// waited for, so that the newest is the last one; when it never comes, the next one is taken.
func (e *entries) saveIndex(ctx context.Context, key string, data []byte) error {
	waited := 0
	for {
		newest, err := e.client.Find(ctx, key, true)
		if err != nil {
			return err
		}
		number := 0
		if newest != nil {
			if number, err = strconv.Atoi(strings.TrimPrefix(newest.Key, key)); err != nil {
				return fmt.Errorf("the cache's index has the key %q, which has no number", newest.Key)
			}
		}
		for range maxIndexes {
			number++
			r, err := bytesOpener(data)(ctx)
			if err != nil {
				return err
			}
			err = e.client.Save(ctx, key+strconv.Itoa(number), int64(len(data)), r)
			if !errors.Is(err, actions.ErrExists) {
				return err
			}
			if waited < indexPauses {
				break
			}
		}
		if waited++; waited > indexPauses {
			return fmt.Errorf("writing the cache's index: all of %d numbers from %d on are taken", maxIndexes, number-maxIndexes+1)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(e.pause):
		}
	}
}
