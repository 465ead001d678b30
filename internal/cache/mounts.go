package cache

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/registry"
	"github.com/slipway-build/slipway/internal/store"
)

// Mount is a cache mount of the store as caches carry it.
type Mount struct {
	// ID is what it is in the store.
	ID string
	// Name is its id in the Dockerfile; "" is one that a step finds warm.
	Name string
	// Everywhere is what it is on any machine: the ID, without the project of one that is warm.
	Everywhere string
}

// Describe is what messages call a mount.
func (m Mount) Describe() string {
	if m.Name != "" {
		return m.Name
	}
	return store.DescribeMount(m.ID)
}

// carries says which cache mounts an end of a cache carries.
type carries struct {
	ids     []string // in Dockerfiles; "*" is all
	warm    bool     // those that steps find warm
	project string   // whose they are there
}

// parseCarries reads the attributes mounts= and warm=.
func parseCarries(attrs map[string]string, l location) (c carries, err error) {
	if ids := attrs["mounts"]; ids != "" {
		c.ids = strings.FieldsFunc(ids, func(r rune) bool { return r == ',' || r == ';' })
	}
	switch v := attrs["warm"]; v {
	case "", "false", "0":
	case "true", "1":
		c.warm = true
	default:
		c.warm, c.project = true, v
	}
	if !c.any() {
		return c, nil
	}
	switch at := l.(type) {
	case keysAt:
		if c.warm && c.project == "" {
			return c, errors.New("a cache of mode=keys is there for many projects: say by warm=NAME whose warm caches these are")
		}
	case *inRegistry, *directory:
		if d, ok := at.(*directory); ok && d.digest != "" {
			return c, errors.New("mounts= and warm= are for a cache with a tag, and this one has digest=")
		}
	default:
		return c, errors.New("mounts= and warm= are for type=registry and for type=local on this machine")
	}
	return c, nil
}

func (c carries) any() bool { return len(c.ids) > 0 || c.warm }

// has reports whether a mount is one of them.
func (c carries) has(m Mount) bool {
	if m.Name == "" {
		return c.warm
	}
	return slices.ContainsFunc(c.ids, func(id string) bool { // which BuildKit begins with a slash
		return id == "*" || path.Clean("/"+id) == path.Clean("/"+m.Name)
	})
}

// nameAt is what a mount is called in a cache.
func (c carries) nameAt(l location, m Mount) string {
	var tag string
	switch at := l.(type) {
	case *inRegistry:
		tag = at.ref[strings.LastIndex(at.ref, ":")+1:]
	case *directory:
		tag = at.label
	}
	project := ""
	if m.Name == "" {
		project = c.project
	}
	sum := sha256.Sum256([]byte(strings.Join([]string{tag, project, m.Everywhere}, "\x00")))
	return mountPrefix + hex.EncodeToString(sum[:])
}

// openNames opens what keeps the manifests of mounts. s may be nil to read only.
func openNames(l location, s *store.Store, client *registry.Client) (named, error) {
	if k, ok := l.(keysAt); ok {
		l = k.location
	}
	at, err := l.open(s, client)
	if err != nil {
		return nil, err
	}
	switch at := at.(type) {
	case *repository:
		return namedRepository{at, nil}, nil
	case inDirectory:
		return namedDirectory{at}, nil
	}
	return nil, fmt.Errorf("%T keeps no names", at)
}

// Mounts is an end of a cache that carries cache mounts.
type Mounts struct {
	carries
	location location
}

// Mounts are the cache mounts that are exported; nil: none.
func (t *To) Mounts() *Mounts { return mountsOf(t.carries, t.location) }

// Mounts are the cache mounts that are imported; nil: none.
func (f *From) Mounts() *Mounts { return mountsOf(f.carries, f.location) }

func mountsOf(c carries, l location) *Mounts {
	if !c.any() {
		return nil
	}
	return &Mounts{c, l}
}

// Place is where the cache is, for messages.
func (m *Mounts) Place() string { return m.location.name() }

// Has reports whether a mount is one that is carried.
func (m *Mounts) Has(one Mount) bool { return m.has(one) }

// synced is what the store remembers a manifest by that a mount was brought in line with.
func (m *Mounts) synced(one Mount) string {
	sum := sha256.Sum256([]byte("carried mount\x00" + m.location.where() + "\x00" + m.nameAt(m.location, one) + "\x00" + one.ID))
	return hex.EncodeToString(sum[:])
}

// ErrMount is damage of a mount of a cache.
var ErrMount = errors.New("it is damaged")

// findMount reads what there is of a mount; nil: there is none, or it is the one with a digest of the manifest that is known. What is damaged is an error
// that is ErrMount. The second is the manifest's digest.
func findMount(ctx context.Context, at named, name, known string) (*carried, string, error) {
	raw, err := at.find(ctx, name)
	if errdefs.IsNotFound(err) {
		return nil, "", nil
	}
	if err != nil {
		return nil, "", err
	}
	version := describe(ocispec.MediaTypeImageManifest, raw).Digest.String()
	if version == known {
		return nil, version, nil
	}
	c, err := readMount(ctx, at, raw, mountBits)
	if err != nil {
		return nil, "", err
	}
	return c, version, nil
}

// readMount reads what a manifest says, whose list is where at keeps its blobs. What is damaged is an error that is ErrMount.
func readMount(ctx context.Context, at named, raw []byte, bits uint32) (*carried, error) {
	var doc ocispec.Manifest
	if err := json.Unmarshal(raw, &doc); err != nil {
		return nil, fmt.Errorf("%w: decoding its manifest: %w", ErrMount, err)
	}
	if doc.Config.MediaType != mediaMountList || len(doc.Layers) > maxPacks {
		return nil, fmt.Errorf("%w: it is no list of files", ErrMount)
	}
	packs := doc.Layers
	if len(packs) == 1 && packs[0].MediaType == ocispec.MediaTypeEmptyJSON {
		packs = nil
	}
	for _, p := range packs {
		if err := p.Digest.Validate(); err != nil {
			return nil, fmt.Errorf("%w: a pack has the digest %q", ErrMount, p.Digest)
		}
	}
	list, err := readFrom(ctx, at.open, doc.Config, maxList)
	if isDamage(err) || errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w: %w", ErrMount, err)
	}
	if err != nil {
		return nil, err
	}
	c, err := decodeMount(bytes.NewReader(list), packs, bits)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMount, err)
	}
	return c, nil
}
