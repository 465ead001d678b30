package cache

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/registry"
	"github.com/slipway-build/slipway/internal/store"
)

// The types of caches.
const (
	TypeRegistry = "registry"
	TypeLocal    = "local"
	TypeInline   = "inline"
	TypeGHA      = "gha"
	TypeS3       = "s3"
)

// kind is what a type of cache is made of.
type kind struct {
	// to and from read attributes. They reach nothing; to may set what of To the type decides. One of
	// them is nil where a type has no such end.
	to   func(t *To, attrs map[string]string) (location, error)
	from func(attrs map[string]string) (location, error)
	// complete adds to attributes what the environment has, and says what is missing for a cache to speak
	// of: one that is there in some environments alone is passed over in others. It may be nil. env has nothing for somebody
	// else's cache, of which then all has to be said.
	complete func(attrs map[string]string, env func(string) (string, bool)) (missing string)
	// keys are what somebody else has to be known by, so that it is never by what this process can find.
	keys []string
}

// kinds are the types that there are.
var kinds = map[string]kind{
	TypeInline:   {to: func(*To, map[string]string) (location, error) { return inline{}, nil }},
	TypeRegistry: {to: registryTo, from: registryFrom},
	TypeLocal:    {to: directoryTo, from: directoryFrom},
	TypeGHA:      {to: githubTo, from: githubFrom, complete: githubEnvironment},
	TypeS3:       {to: s3To, from: s3From, complete: s3Environment, keys: []string{"access_key_id", "secret_access_key"}},
}

// elsewhere are the types that BuildKit has and that are not there.
var elsewhere = map[string]string{
	"azblob": "use type=registry, type=s3, or type=local and copy the directory to and from the container",
}

// errType is the error for a type that is not there; what is "exporter" or "importer".
func errType(what, name string) error {
	if advice, ok := elsewhere[name]; ok {
		return fmt.Errorf("cache %s %q is not supported: %s", what, name, advice)
	}
	return fmt.Errorf("unknown cache %s: %q (want %s)", what, name, strings.Join(slices.Sorted(maps.Keys(kinds)), ", "))
}

// completed is an entry with what the environment adds to it, and what is missing when there is no such cache here.
func (e Entry) completed() (_ Entry, missing string) {
	k := kinds[e.Type]
	if k.complete == nil {
		return e, ""
	}
	e.Attrs = maps.Clone(e.Attrs)
	if e.Attrs == nil {
		e.Attrs = map[string]string{}
	}
	if e.Foreign {
		for _, key := range k.keys {
			if e.Attrs[key] == "" {
				return e, key + "= is not set, and keys of this machine are not yours to use"
			}
		}
		return e, k.complete(e.Attrs, func(string) (string, bool) { return "", false })
	}
	return e, k.complete(e.Attrs, os.LookupEnv)
}

// Absent says why there is no such cache in this environment; "" when there is one.
func (e Entry) Absent() string {
	if _, missing := e.completed(); missing != "" {
		return fmt.Sprintf("cache type=%s is left out: %s", e.Type, missing)
	}
	return ""
}

// location says where a cache is.
type location interface {
	// title is what an export is called in a display, as BuildKit calls it.
	title() string
	// name is how messages call the cache.
	name() string
	// where tells it apart from all that others may write to.
	where() string
	// open prepares what is kept there, and reaches nothing yet. s knows which repositories can share a
	// blob, and is nil to read only; client may be nil for what is not in a registry.
	open(s *store.Store, client *registry.Client) (place, error)
}

// place is what a cache is kept in: it is read from, written to, or both.
type place interface {
	origin
	destination
}

// origin is where a cache is read from.
type origin interface {
	// load reads what the cache knows. Of what it has for several platforms, it is that for the wanted
	// ones. tell is given what was found out.
	load(ctx context.Context, wanted platforms.MatchComparer, tell func(string)) (*contents, error)
	// open reads a blob. Its digest is the caller's to verify.
	open(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error)
}

// destination is where a cache is written to.
type destination interface {
	// put writes a blob unless it is there. open is only called when it is not; it may be called
	// again after an error of reading or writing.
	put(ctx context.Context, desc ocispec.Descriptor, open opener) error
	// commit writes what x says of the blobs, all of which are there, and gives it the cache's name. The
	// descriptor is that of what has the name.
	commit(ctx context.Context, x *exporting, held []ocispec.Descriptor) (ocispec.Descriptor, error)
}

// opener opens what is to be written.
type opener func(context.Context) (io.ReadCloser, error)

// describe is a descriptor of a document.
func describe(mediaType string, data []byte) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
}
