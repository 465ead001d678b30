package cache

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/slipway-build/slipway/internal/registry"
	"github.com/slipway-build/slipway/internal/store"
)

// When an entry was made, or last used, its manifest says. A build that writes to a cache notes of what it has used there, once a day, that it did.

const (
	// annotationUsed is when an entry was last used, as far as is known. The time is one of whoever used it.
	annotationUsed = "build.slipway.used"
	// notedAfter is how old that has to be to be noted again.
	notedAfter = 24 * time.Hour
	// maxPruned is how many entries are looked at, noted or removed at the same time.
	maxPruned = 8
	// blobGrace is how old a blob is that nothing names, in a directory, before it goes: one may be there whose entry is being written.
	blobGrace = time.Hour
)

// lastUsed is when a manifest of this package was made or used; zero for what is none.
func lastUsed(raw []byte) (when time.Time) {
	var m ocispec.Manifest
	if json.Unmarshal(raw, &m) != nil || m.ArtifactType != artifactResult && m.ArtifactType != artifactClaims {
		return when
	}
	for _, key := range []string{ocispec.AnnotationCreated, annotationUsed} {
		if t, err := time.Parse(time.RFC3339, m.Annotations[key]); err == nil && t.After(when) {
			when = t
		}
	}
	return when
}

// isOwn reports whether a name is one that this package gives.
func isOwn(name string) bool {
	return strings.HasPrefix(name, resultPrefix) || strings.HasPrefix(name, stepPrefix)
}

// shelves keep names that can be listed and removed.
type shelves interface {
	named
	// names lists them, with those of others.
	names(ctx context.Context) ([]string, error)
	// remove removes a name while it has this manifest.
	remove(ctx context.Context, name string, manifest []byte) error
}

// Pruned is what became of the entries of a cache.
type Pruned struct {
	Removed, Kept int
	// Bytes are those of blobs that went; of a registry it is not known.
	Bytes int64
}

// Prune removes the results and claims of a cache of mode=keys that were neither made nor used since a time. Builds may use it meanwhile: what they
// have looked up and is gone is a miss. An error that is errdefs.ErrNotImplemented says that the registry lets nobody remove anything.
func Prune(ctx context.Context, e Entry, client *registry.Client, since time.Time, dry bool) (done Pruned, err error) {
	f, err := ParseFrom(e)
	if err != nil {
		return done, err
	}
	at, err := f.location.open(nil, client)
	if err != nil {
		return done, err
	}
	keys, ok := at.(*byKey)
	if !ok {
		return done, fmt.Errorf("%s is no cache of mode=keys", f.Name())
	}
	s, ok := keys.named.(shelves)
	if !ok {
		return done, fmt.Errorf("%T cannot be listed", keys.named)
	}
	if done, err = prune(ctx, s, since, dry); err != nil || dry {
		return done, err
	}
	if d, ok := s.(namedDirectory); ok {
		done.Bytes, err = d.sweep(time.Now().Add(-blobGrace))
	}
	return done, err
}

func prune(ctx context.Context, s shelves, since time.Time, dry bool) (done Pruned, err error) {
	all, err := s.names(ctx)
	if err != nil {
		return done, err
	}
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(maxPruned)
	for _, name := range all {
		if !isOwn(name) {
			continue
		}
		g.Go(func() error {
			raw, err := s.find(ctx, name)
			if errdefs.IsNotFound(err) || err != nil && isDamage(err) { // it went, or is nobody's to judge
				return nil
			}
			if err != nil {
				return err
			}
			used := lastUsed(raw)
			old := !used.IsZero() && used.Before(since)
			if old && !dry {
				if err := s.remove(ctx, name, raw); err != nil && !errdefs.IsNotFound(err) {
					return fmt.Errorf("removing %s: %w", name, err)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			if old {
				done.Removed++
			} else {
				done.Kept++
			}
			return nil
		})
	}
	return done, g.Wait()
}

// NoteUse notes in the cache of an import that its results were used which t writes to as well, unless that was noted in the last day. The
// first failure ends it.
func (t *To) NoteUse(ctx context.Context, s *store.Store, client *registry.Client, i *Import) error {
	if t.Type+" "+t.location.where() != i.where {
		return nil
	}
	used := i.staleUses(time.Now())
	if len(used) == 0 {
		return nil
	}
	at, err := t.location.open(s, client)
	if err != nil {
		return err
	}
	to, ok := at.(*byKey)
	if !ok {
		return nil
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(maxPruned)
	for _, key := range used {
		g.Go(func() error { return noteUse(ctx, to, resultPrefix+key, time.Now()) })
	}
	return g.Wait()
}

// noteUse notes a use of what has a name now.
func noteUse(ctx context.Context, to named, name string, now time.Time) error {
	raw, err := to.find(ctx, name)
	if isDamage(err) {
		return nil
	}
	var m ocispec.Manifest
	if err != nil || json.Unmarshal(raw, &m) != nil || m.ArtifactType != artifactResult || now.Sub(lastUsed(raw)) < notedAfter {
		return err
	}
	if m.Annotations == nil {
		m.Annotations = map[string]string{}
	}
	m.Annotations[annotationUsed] = now.UTC().Format(time.RFC3339)
	if raw, err = json.Marshal(m); err != nil {
		return err
	}
	return to.enter(ctx, name, describe(ocispec.MediaTypeImageManifest, raw), raw)
}

// staleUses are the keys that had an answer which was used, where the last use that is noted is older than a day.
func (i *Import) staleUses(now time.Time) (keys []string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for key := range i.hit {
		if now.Sub(i.noted[key]) >= notedAfter {
			keys = append(keys, key)
		}
	}
	return keys
}

func (r namedRepository) names(ctx context.Context) ([]string, error) {
	return r.client.Tags(ctx, repositoryOf(r.ref))
}

// remove implements [shelves], by the digest: what has the name by now stays. Some registries leave the name then.
func (r namedRepository) remove(ctx context.Context, name string, manifest []byte) error {
	if err := r.client.Delete(ctx, repositoryOf(r.ref)+"@"+describe("", manifest).Digest.String()); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	if raw, err := r.find(ctx, name); err != nil || string(raw) != string(manifest) {
		return nil //nolint:nilerr // it is gone, or another one
	}
	return r.client.Delete(ctx, r.at(name))
}

func (d namedDirectory) names(context.Context) ([]string, error) {
	entries, err := os.ReadDir(d.at(""))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, nil
}

// remove implements [shelves]. Who writes the name in the same moment writes it once more with the next build that has the result.
func (d namedDirectory) remove(ctx context.Context, name string, manifest []byte) error {
	if raw, err := d.find(ctx, name); err != nil || string(raw) != string(manifest) {
		return err
	}
	err := os.Remove(d.at(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
