package cache

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/registry"
	"github.com/slipway-build/slipway/internal/store"
)

// A context of a build that another machine carries out is kept in a repository in the form of cache mounts (mountlist.go): what the repository has of it
// is not sent again.

// contextPrefix begins the tags of contexts.
const contextPrefix = "context-"

// PackedScheme begins the name of a context that is kept in a repository: packed://HOST/REPOSITORY@DIGEST, with ?insecure=true of a registry with any
// certificate, or none.
const PackedScheme = "packed://"

// Packed is where such a context is.
type Packed struct {
	// Repository is normalised, without tag and digest.
	Repository string
	// Digest is that of its manifest; "" before it is sent.
	Digest digest.Digest
	// Insecure lets the registry have any certificate, or none.
	Insecure bool
}

// String is the name that ParsePacked reads.
func (p Packed) String() string {
	s := PackedScheme + p.Repository + "@" + p.Digest.String()
	if p.Insecure {
		s += "?insecure=true"
	}
	return s
}

// ParsePacked reads the name of a context.
func ParsePacked(s string) (p Packed, err error) {
	name, ok := strings.CutPrefix(s, PackedScheme)
	if !ok {
		return p, fmt.Errorf("%q is no packed context: want %sHOST/REPOSITORY@DIGEST", s, PackedScheme)
	}
	name, p.Insecure = strings.CutSuffix(name, "?insecure=true")
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return p, fmt.Errorf("packed context %q: %w", s, err)
	}
	digested, ok := named.(reference.Digested)
	if !ok {
		return p, fmt.Errorf("packed context %q has no digest", s)
	}
	p.Repository, p.Digest = named.Name(), digested.Digest()
	return p, nil
}

func (p Packed) open(s *store.Store, client *registry.Client) namedRepository {
	if p.Insecure {
		client.AllowInsecure(hostOf(p.Repository))
	}
	return namedRepository{&repository{inRegistry: &inRegistry{ref: p.Repository + ":latest", insecure: p.Insecure}, store: s, client: client}, nil}
}

// SentContext tells what was sent of a context.
type SentContext struct {
	Packed
	Files int
	Bytes int64 // of contents that the repository did not have, uncompressed
}

// SendContext keeps the files of a tree in a repository, of which project says whose they are: what was sent for it last need not be sent again. What cannot
// be kept (names that are no UTF-8), or changes meanwhile, is an error; devices and sockets are left out.
func SendContext(ctx context.Context, s *store.Store, client *registry.Client, to Packed, project string, tree layer.Tree) (sent SentContext, err error) {
	tmp, err := s.TempDir()
	if err != nil {
		return sent, err
	}
	defer os.RemoveAll(tmp)
	at := to.open(s, client)
	sum := sha256.Sum256([]byte(project))
	x := &sending{
		at: at, name: contextPrefix + hex.EncodeToString(sum[:]), tree: tree, tmp: tmp, bits: contextBits, all: true,
		new: carried{created: time.Unix(0, 0).UTC()}, // the same files in the same packs are the same manifest, whoever sends them: packs of what was sent before are kept
	}
	if err := x.list(ctx); err != nil {
		return sent, fmt.Errorf("looking at the build context: %w", err)
	}
	old, had := x.before(ctx)
	made, err := x.update(ctx, old, had)
	if err == nil && len(x.gone) > 0 {
		err = fmt.Errorf("%s changed while it was read", x.changed())
	}
	if err != nil {
		return sent, fmt.Errorf("sending the build context to %s: %w", to.Repository, err)
	}
	sent.Packed, sent.Files, sent.Bytes = to, len(x.new.files), x.sent
	sent.Digest = digest.Digest(made)
	return sent, nil
}

// before is what was sent last. What cannot be had of it is only sent again.
func (x *sending) before(ctx context.Context) (*carried, string) {
	raw, err := x.at.find(ctx, x.name)
	if err != nil {
		return nil, ""
	}
	old, err := readMount(ctx, x.at, raw, x.bits)
	if err != nil {
		return nil, ""
	}
	return old, digest.FromBytes(raw).String()
}

// changed is a file whose content is another one than was listed.
func (x *sending) changed() string {
	i := slices.IndexFunc(x.new.files, func(f carriedFile) bool { return x.gone[f.Digest] })
	if i < 0 {
		return fmt.Sprint(slices.Collect(maps.Keys(x.gone)))
	}
	return x.new.files[i].Path
}

// FetchContext writes the files of a context into a directory, and reports how many bytes were fetched. What the repository says is checked: nothing is written
// but files of the directory, with the contents that they are said to have.
func FetchContext(ctx context.Context, s *store.Store, client *registry.Client, from Packed, dir string) (files int, fetched int64, err error) {
	at := from.open(s, client)
	_, raw, err := client.Manifest(ctx, from.Repository+"@"+from.Digest.String())
	if err == nil && digest.FromBytes(raw) != from.Digest {
		err = fmt.Errorf("its manifest has another digest: %w", ErrMount)
	}
	if err != nil {
		return 0, 0, fmt.Errorf("fetching the build context %s: %w", from, err)
	}
	c, err := readMount(ctx, at, raw, contextBits)
	if err != nil {
		return 0, 0, fmt.Errorf("fetching the build context %s: %w", from, err)
	}
	b := &bringing{carried: c, at: at, store: s}
	if err := b.bring(ctx, dir); err != nil {
		return 0, 0, fmt.Errorf("fetching the build context %s: %w", from, errors.Join(err, context.Cause(ctx)))
	}
	return len(c.files), b.fetched, nil
}
