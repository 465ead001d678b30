package cache

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	cacheimporttypes "github.com/moby/buildkit/cache/remotecache/v1/types"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/atomicfile"
	"github.com/slipway-build/slipway/internal/registry"
	"github.com/slipway-build/slipway/internal/store"
)

// A cache of mode=keys has each result by itself, in an entry: a manifest whose name is made of the key, with the layers that it names, and a config
// with one result and the digests of files of it that somebody asked for. Who looks a key up asks for that alone; who has made a result
// writes that alone. So any number of machines read and write it at the same time, and nobody ever has the whole. A digest is in the same
// entry as the bytes: of two machines whose step does not make the same each time, one has both.

// modeKeys is the mode of such a cache.
const modeKeys = "keys"

// The names of what is kept: these, and the key in hexadecimal.
const (
	resultPrefix = "result-"
	mountPrefix  = "mount-" // and a digest of what it is of: see [Mounts]
)

const (
	// maxEntry is the size in bytes of the largest config of an entry that is read.
	maxEntry = registry.MaxManifestSize
	// maxEntryLayers is how many layers the outputs of an entry may name, all in all.
	maxEntryLayers = 1 << 16
	// maxEmbedded is that of one that is in the manifest as well.
	maxEmbedded = 256 << 10
)

// errEntry is a file in the place of an entry that is none.
var errEntry = errors.New("it is no entry of a cache")

// artifactResult is the type of the manifests.
const artifactResult = "application/vnd.slipway.result.v1+json"

// named is what keeps manifests by names.
type named interface {
	// find reads the manifest of a name. That there is none is an error that is errdefs.ErrNotFound.
	find(ctx context.Context, name string) ([]byte, error)
	// enter writes a manifest, all blobs of which are there, and gives it the name.
	enter(ctx context.Context, name string, desc ocispec.Descriptor, manifest []byte) error
	// holds reports whether a blob is there.
	holds(ctx context.Context, desc ocispec.Descriptor) (bool, error)
	// open and put are those of documents.
	open(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error)
	put(ctx context.Context, desc ocispec.Descriptor, open opener) error
}

// keysAt is where such a cache is.
type keysAt struct {
	location
	written *sync.Map // blobs that were found in a registry, or written to it, by their digests
}

// asKeys is the location of a cache of mode=keys that would be at l in another mode.
func asKeys(l location) (location, error) {
	switch l := l.(type) {
	case *inRegistry:
		if repository := repositoryOf(l.ref); l.ref != repository+":latest" { // none was given
			return nil, fmt.Errorf("a cache of mode=keys is a repository, whose tags are its own to give: ref=%s", repository)
		}
		return keysAt{l, &sync.Map{}}, nil
	case *directory:
		if l.reset || l.digest != "" || l.label != "latest" {
			return nil, errors.New("a cache of mode=keys has no reset=, tag= and digest=")
		}
		return keysAt{l, &sync.Map{}}, nil
	}
	return nil, errors.New("mode=keys is for type=registry and for type=local on this machine")
}

func (k keysAt) name() string  { return strings.TrimSuffix(k.location.name(), ":latest") + " (keys)" }
func (k keysAt) where() string { return k.location.where() + " " + modeKeys }

func (k keysAt) open(s *store.Store, client *registry.Client) (place, error) {
	at, err := k.location.open(s, client)
	if err != nil {
		return nil, err
	}
	switch at := at.(type) {
	case *repository:
		return &byKey{named: namedRepository{at, k.written}, repository: repositoryOf(at.ref)}, nil
	case inDirectory:
		return &byKey{named: namedDirectory{at}}, nil
	}
	return nil, fmt.Errorf("%T keeps no names", at)
}

// byKey is a cache in it, as a place.
type byKey struct {
	named
	repository string // that has the layers; "" is none
}

// errNoCommit is for what has no name for a whole.
var errNoCommit = errors.New("a cache of mode=keys has no whole that could be committed")

func (b *byKey) commit(context.Context, *exporting, []ocispec.Descriptor) (ocispec.Descriptor, error) {
	return ocispec.Descriptor{}, errNoCommit
}

// load finds out whether anybody answers.
func (b *byKey) load(ctx context.Context, _ platforms.MatchComparer, tell func(string)) (*contents, error) {
	c := &contents{results: map[string]*Found{}, memos: map[string]digest.Digest{}, lines: map[string]placed{}}
	if _, err := b.find(ctx, resultPrefix+digest.FromString("").Encoded()); err != nil && !errdefs.IsNotFound(err) {
		return nil, err
	}
	tell("results are looked up one by one, by their keys")
	return c, nil
}

// entry is what there is of a key: its result, and digests of files of that.
type entry struct {
	*contents
	used   time.Time            // or made, as far as is known
	config []byte               // as it was read
	layers []ocispec.Descriptor // that are held
}

// look reads what there is of a key. What is damaged, or somebody has put there, is an entry without anything.
func (b *byKey) look(ctx context.Context, key string) (entry, error) {
	none := entry{contents: &contents{}}
	raw, err := b.find(ctx, resultPrefix+key)
	if isDamage(err) {
		return none, nil
	}
	if err != nil {
		return none, err
	}
	m, err := parseManifest(raw)
	if err != nil || m.cache == nil || m.cache.Size > maxEntry || m.cache.Digest.Validate() != nil {
		return none, nil //nolint:nilerr // whatever somebody has given that name
	}
	data := m.cache.Data
	if int64(len(data)) != m.cache.Size || digest.FromBytes(data) != m.cache.Digest {
		data, err = readFrom(ctx, b.open, *m.cache, maxEntry)
		if isDamage(err) {
			return none, nil
		}
		if err != nil {
			return none, err
		}
	}
	c, err := decodeConfig(data, listedIn(m.layers))
	if err != nil || c.named > maxEntryLayers || len(c.memos) > 2*maxMemos {
		return none, nil //nolint:nilerr // one that is damaged is none, and so is one that would fill the memory
	}
	if b.repository != "" {
		c.heldBy(b.repository)
	}
	for other, f := range c.results {
		f.Result.Lines = nil // whoever has the key has them
		if other != key {
			delete(c.results, other)
		}
	}
	return entry{c, lastUsed(raw), data, m.layers}, nil
}

// isDamage reports whether an error says that there is no entry, or none that is whole: what asks for others may go on.
func isDamage(err error) bool {
	for _, e := range []error{errdefs.ErrNotFound, errdefs.ErrDataLoss, errdefs.ErrOutOfRange, errdefs.ErrNotImplemented, errContent, errEntry} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// whole reports whether an entry has the result of a record, with all layers, as far as is known here; where the step ran, and it may be for want of
// one of them, the cache is asked for each.
func (x *exporting) whole(ctx context.Context, to *byKey, e entry, r Record) (bool, error) {
	f := e.results[r.Key]
	if f == nil {
		return false, nil
	}
	for _, out := range f.Outputs {
		for _, l := range out {
			if !l.Held {
				continue
			}
			if x.isBad(l.Blob.Digest) {
				return false, nil
			}
			if !r.Ran || r.Only {
				continue
			}
			if there, err := to.holds(ctx, l.Blob); err != nil || !there {
				return false, err
			}
		}
	}
	return true, nil
}

// exportKeys writes the results of a set, each by itself, with digests of its files. What is there and whole stays, unless it was made anew. What was
// only planned is not worth a request: planning it again takes none. done is told of each record that is there, or has no place there. The
// first failure ends it.
func (x *exporting) exportKeys(ctx context.Context, to *byKey, done func(Record)) error {
	for _, r := range x.set.Records {
		if r.Result.Planned && !r.Only {
			continue
		}
		one := &exporting{To: x.To, store: x.store, tell: x.tell, set: Set{Records: []Record{r}, Memos: r.Memos, Bases: r.Bases, Bad: x.set.Bad}}
		if err := one.enterRecord(ctx, to, r); err != nil {
			return err
		}
		done(r)
	}
	return nil
}

// enterRecord writes what an export of one record is. Where the step ran the layers of an entry that is there are looked for: it may be for want of
// one that it ran. The digests of files go with the bytes that they are of: an entry that has another result keeps its own.
func (x *exporting) enterRecord(ctx context.Context, to *byKey, r Record) error {
	e := entry{contents: &contents{}}
	whole := false
	if !r.Anew {
		var err error
		if e, err = to.look(ctx, r.Key); err != nil {
			return err
		}
		if whole, err = x.whole(ctx, to, e, r); err != nil {
			return err
		}
	}
	if (whole || r.Only) && containsAll(e.memos, r.Memos) {
		return nil
	}
	if whole || r.Only {
		same := !whole // digests alone
		if whole {
			var err error
			if same, err = x.same(ctx, e.results[r.Key], r); err != nil {
				return err
			}
		}
		if !same {
			return nil
		}
		return x.addMemos(ctx, to, r, e)
	}
	if err := x.prepare(ctx); err != nil {
		return fmt.Errorf("preparing a result for export: %w", err)
	}
	held, err := x.writeLayers(ctx, to)
	if err != nil {
		return err
	}
	return x.enterConfig(ctx, to, r.Key, held)
}

// same reports whether a result that is there has the layers of a record's.
func (x *exporting) same(ctx context.Context, f *Found, r Record) (bool, error) {
	if len(f.Outputs) != len(r.Result.Outputs) || len(f.Outputs) == 0 {
		return false, nil
	}
	for i, snap := range r.Result.Outputs {
		if len(snap) != len(f.Outputs[i]) {
			return false, nil
		}
		for j, id := range snap {
			b, err := x.blob(ctx, id)
			if err != nil || b.diffID != f.Outputs[i][j].DiffID {
				return false, err
			}
		}
	}
	return true, nil
}

// maxMemos is how many digests of files an entry keeps when more are added.
const maxMemos = 1000

// addMemos adds the digests of a record to an entry of the same result, or to one that has nothing else.
func (x *exporting) addMemos(ctx context.Context, to *byKey, r Record, e entry) error {
	var cfg config
	if len(e.config) > 0 {
		if err := json.Unmarshal(e.config, &cfg); err != nil {
			return err // it was read before
		}
	}
	x.config.Layers = cfg.Layers
	for _, rec := range cfg.Records {
		if rec.Own != nil && rec.Own.Content == "" && rec.Digest == keyDigest(r.Key) {
			x.config.Records = []record{rec}
		}
	}
	all := map[string]digest.Digest{}
	for key, content := range e.memos {
		if len(all)+len(r.Memos) < maxMemos {
			all[key] = content
		}
	}
	maps.Copy(all, r.Memos)
	x.config.Records = append(x.config.Records, memoRecords(all)...)
	return x.enterConfig(ctx, to, r.Key, e.layers)
}

// containsAll reports whether all has what some has.
func containsAll(all, some map[string]digest.Digest) bool {
	for key, content := range some {
		if all[key] != content {
			return false
		}
	}
	return true
}

// enterConfig writes the entry of a key whose layers are there.
func (x *exporting) enterConfig(ctx context.Context, to *byKey, key string, held []ocispec.Descriptor) error {
	if len(held) == 0 { // some registries take no manifest without layers
		empty := ocispec.DescriptorEmptyJSON
		if err := to.put(ctx, empty, bytesOpener(empty.Data)); err != nil {
			return fmt.Errorf("error writing the empty blob: %w", err)
		}
		held = append(held, empty)
	}
	data, err := x.marshal()
	if err != nil {
		return err
	}
	config := describe(cacheimporttypes.CacheConfigMediaTypeV0, data)
	if err := to.put(ctx, config, bytesOpener(data)); err != nil {
		return fmt.Errorf("error writing config blob: %w", err)
	}
	if len(data) <= maxEmbedded {
		config.Data = data // so that who looks it up asks once
	}
	manifest, err := json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: artifactResult,
		Config: config, Layers: held, Annotations: map[string]string{ocispec.AnnotationCreated: time.Now().UTC().Format(time.RFC3339)},
	})
	if err != nil {
		return err
	}
	if err := to.enter(ctx, resultPrefix+key, describe(ocispec.MediaTypeImageManifest, manifest), manifest); err != nil {
		return fmt.Errorf("error writing the manifest of %s: %w", resultPrefix+key, err)
	}
	return nil
}

// namedRepository is a registry's repository: its tags are the names.
type namedRepository struct {
	*repository
	written *sync.Map // blobs that need not be asked for again; nil: none
}

// put writes a blob that is not there, and asks for one only once: each result of a long stage has the layers of all before it.
func (r namedRepository) put(ctx context.Context, desc ocispec.Descriptor, open opener) error {
	if r.written == nil {
		return r.repository.put(ctx, desc, open)
	}
	if _, ok := r.written.Load(desc.Digest); ok {
		return nil
	}
	err := r.repository.put(ctx, desc, open)
	if err == nil {
		r.written.Store(desc.Digest, true)
	}
	return err
}

func (r namedRepository) at(name string) string { return repositoryOf(r.ref) + ":" + name }

func (r namedRepository) find(ctx context.Context, name string) ([]byte, error) {
	raw, _, err := r.findAt(ctx, name)
	return raw, err
}

// findAt implements [dated], by what the registry answers.
func (r namedRepository) findAt(ctx context.Context, name string) ([]byte, time.Time, error) {
	_, raw, now, err := r.client.Tagged(ctx, r.at(name))
	return raw, now, err
}

func (r namedRepository) holds(ctx context.Context, desc ocispec.Descriptor) (bool, error) {
	_, err := r.client.Blob(ctx, repositoryOf(r.ref)+"@"+desc.Digest.String())
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	return err == nil, err
}

func (r namedRepository) enter(ctx context.Context, name string, desc ocispec.Descriptor, manifest []byte) error {
	_, err := r.client.Push(ctx, r.at(name), registry.Content{Desc: desc, Open: bytesOpener(manifest)})
	return err
}

// namedDirectory is a directory: its names are files, and its blobs are those of an OCI layout. Any number of processes may write to it.
type namedDirectory struct{ inDirectory }

// namesDir is where the names are.
const namesDir = "keys"

func (d namedDirectory) at(name string) string { return filepath.Join(d.path, namesDir, name) }

func (d namedDirectory) find(_ context.Context, name string) (_ []byte, err error) {
	fi, err := os.Lstat(d.at(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", errdefs.ErrNotFound, err)
	}
	if err == nil && !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: %w", d.at(name), errEntry)
	}
	f, err := store.OpenRegular(d.at(name))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, registry.MaxManifestSize+1))
	if err == nil && len(raw) > registry.MaxManifestSize {
		err = fmt.Errorf("%s has more than %d bytes: %w", f.Name(), registry.MaxManifestSize, errEntry)
	}
	return raw, err
}

func (d namedDirectory) holds(_ context.Context, desc ocispec.Descriptor) (bool, error) {
	return d.dir().Has(desc), nil
}

// put writes a blob. One that is there is as young as one that was written, as its entry may be to come.
func (d namedDirectory) put(ctx context.Context, desc ocispec.Descriptor, open opener) error {
	if d.dir().Has(desc) {
		now := time.Now()
		return os.Chtimes(d.dir().BlobPath(desc.Digest), now, now)
	}
	return d.inDirectory.put(ctx, desc, open)
}

func (d namedDirectory) enter(_ context.Context, name string, _ ocispec.Descriptor, manifest []byte) error {
	if err := os.MkdirAll(filepath.Join(d.path, namesDir), 0o777); err != nil {
		return err
	}
	return atomicfile.Write(d.at(name), atomicfile.Options{Mode: 0o666}, func(f *os.File) error {
		_, err := f.Write(manifest)
		return err
	})
}
