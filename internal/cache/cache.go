// Package cache carries results of builds from one machine to another: it exports them to a
// registry, to a directory or into an image, and imports them from there.
//
// # Structure
//
//	kind.go        what a type of cache is: where it is, and what is kept there
//	entry.go       the options of --cache-to and --cache-from
//	format.go      records and layers as BuildKit's cache config, and back
//	import.go      a cache that was imported: lookups, and fetching single layers
//	keys.go        a cache whose results are looked up, and written, each by itself
//	mounts.go      cache mounts that a cache carries: mountlist.go is their form, mountsend.go and mountbring.go are the ways
//	export.go      writing a cache
//	inline.go      the records inside of an image's config
//	documents.go   a cache as a manifest: repository.go in a registry, directory.go in a directory
//	index.go       a cache as a config alone, beside its blobs: github.go in GitHub Actions, s3.go in a bucket
//
// # Invariants
//
// What is looked up needs no network: an import reads a manifest and a config, or the config alone, and knows
// all records then. Only of mode=keys each lookup is a request, the same one once in a build. A layer is fetched when somebody asks for a form of it.
//
// Layers of base images are named, not held: whoever has the key of a result has resolved the
// image that it stands on, and gets its layers from where the image is.
//
// An export writes layers first, then the config, then the manifest where there is one: a cache that is there
// is whole. What of an import turns out to be damaged or gone is a miss.
package cache

import (
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/store"
)

// Record is a result of this store that can be exported.
type Record struct {
	// Key is the identity of what gave it, hexadecimal.
	Key string
	// Place names the instruction without its text, "[builder 2/4]". A miss is explained with what
	// was last at its place.
	Place string
	// Final says that the layers of the build's result stand on it: mode=min exports these.
	Final bool
	// Ran says that the build made it: nobody who was asked had it, or not whole.
	Ran bool
	// Anew says that the build was to make it whether there was one or not.
	Anew bool
	// Bases, unless nil, are those of the set that it may stand on.
	Bases map[digest.Digest]ocispec.Descriptor
	// Result has its outputs as layers of the store. A planned one has none.
	Result store.Result
	// Memos are digests of selections of its files, by their keys, where they are written with it.
	Memos map[string]digest.Digest
	// Only says that these are all that is written: into the entry of the same result, or into one that has none.
	Only bool
}

// Set is what a build knows that other builds can use.
type Set struct {
	Records []Record
	// Memos are digests of selections of files, by the key of the selection. With a record's own there are none.
	Memos map[string]digest.Digest
	// Bases are the blobs of layers of images that the build stands on.
	Bases map[digest.Digest]ocispec.Descriptor
	// Bad tells blobs that an imported cache has, or had, with other bytes, or not at all; nil: none.
	Bad func(digest.Digest) bool
}

// Layer is a layer of an imported result.
type Layer struct {
	DiffID digest.Digest
	Blob   ocispec.Descriptor
	// Created is when it was made; zero when that is not known.
	Created time.Time
	// Held says that the cache has the blob. Others are layers of base images.
	Held bool
	// Repository has the blob, "docker.io/library/app"; empty when none has it.
	Repository string
}

// Found is an imported result.
type Found struct {
	// Result has no outputs: Outputs are those, each a list of layers, base first.
	Result store.Result
	// They may be those of other results, and are not changed.
	Outputs [][]*Layer
}
