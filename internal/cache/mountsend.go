package cache

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/registry"
	"github.com/slipway-build/slipway/internal/store"
)

const (
	// packBytes is how many bytes of contents a pack begins with, before it is closed: the last one may go beyond.
	packBytes = 16 << 20
	// smallPack is a pack that is put together with others when there are more than fewSmall of them.
	smallPack = 1 << 20
	fewSmall  = 16
)

// Export writes a mount of the store as it is, unless the cache has it like that. What cannot be carried (devices, sockets, set-ID bits, extended
// attributes) is left out, and so is what changes while it is read. A mount that somebody has alone is not looked at: that is told.
func (m *Mounts) Export(ctx context.Context, s *store.Store, client *registry.Client, one Mount, tell Tell) error {
	at, err := openNames(m.location, s, client)
	if err != nil {
		return err
	}
	held, err := s.LookIntoCache(one.ID)
	if err != nil || held == nil {
		if err == nil {
			tell(one.Describe()+" is not there, or in use, and stays as it was in the cache", true)
		}
		return err
	}
	defer held.Release()
	tmp, err := s.TempDir()
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	name := m.nameAt(m.location, one)
	old, had, err := findMount(ctx, at, name, "")
	if err != nil && !errors.Is(err, ErrMount) {
		return err
	}
	tree, keep := s.RememberedMount(held.Dir)
	x := &sending{at: at, name: name, tree: tree, tmp: tmp, bits: mountBits, new: carried{created: time.Now()}}
	if err := errors.Join(x.list(ctx), keep()); err != nil {
		return fmt.Errorf("looking at cache mount %s: %w", one.Describe(), err)
	}
	made, err := x.update(ctx, old, had)
	if err != nil {
		return fmt.Errorf("exporting cache mount %s: %w", one.Describe(), err)
	}
	if made != had {
		tell(fmt.Sprintf("cache mount %s: %d files, %d bytes of contents were new", one.Describe(), len(x.new.files), x.sent), true)
	}
	return s.PutMemo(ctx, m.synced(one), made)
}

// update writes what was listed, unless it is what old has, of the manifest had, and gives the manifest's digest. old may be nil.
func (x *sending) update(ctx context.Context, old *carried, had string) (string, error) {
	if old != nil && !x.whole(ctx, old) {
		old = nil
	}
	if old != nil && slices.EqualFunc(old.files, x.new.files, carriedFile.same) {
		return had, nil
	}
	made, err := x.send(ctx, old)
	if err != nil && old != nil && ctx.Err() == nil { // a pack of before may be gone
		made, err = x.send(ctx, nil)
	}
	return made, err
}

// sending is a mount while it is exported.
type sending struct {
	at   named
	name string
	tree layer.Tree
	tmp  string // a directory of the store
	bits uint32 // permissions that are carried
	all  bool   // what cannot be carried, or changes while it is read, is an error
	new  carried
	sent int64 // bytes of contents that were put into packs

	where map[digest.Digest]carriedFile // where contents are
	gone  map[digest.Digest]bool        // contents that changed since they were listed
}

// list lists the files of the mount, with the digests of their contents.
func (x *sending) list(ctx context.Context) error {
	return layer.WalkLive(x.tree, ".", true, func(e *layer.Entry) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if !e.IsDir() && !e.IsRegular() && !e.IsSymlink() {
			return nil
		}
		if !utf8.ValidString(e.Path) || !utf8.ValidString(e.Link) { // it has no place in a list
			if x.all {
				return fmt.Errorf("the name %q is no UTF-8, and cannot be carried", e.Path)
			}
			return fs.SkipDir
		}
		f := carriedFile{Path: e.Path, Mode: e.Mode & (unix.S_IFMT | x.bits), UID: e.UID, GID: e.GID, Mtime: e.ModTime.UnixNano(), Link: e.Link}
		if f.Mode&unix.S_IFMT == unix.S_IFREG {
			f.Mode, f.Size = f.Mode&^unix.S_ISVTX, e.Size
		}
		if f.hasBytes() {
			var err error
			if f.Digest = e.Digest; f.Digest == "" { // it is not known from before
				f.Digest, err = layer.HashContent(e)
			}
			switch {
			case err != nil && x.all:
				return fmt.Errorf("reading %s: %w", e.Path, err)
			case err != nil:
				return nil //nolint:nilerr // it was written to meanwhile
			}
		}
		if len(x.new.files) == maxMounted {
			return fmt.Errorf("it has more than %d files, and cannot be carried", maxMounted)
		}
		x.new.files = append(x.new.files, f)
		return nil
	})
}

// whole reports whether all packs of a mount are there, as far as their names tell.
func (x *sending) whole(ctx context.Context, old *carried) bool {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(usualParallel)
	for _, p := range old.packs {
		g.Go(func() error {
			there, err := x.at.holds(ctx, p.blob)
			if err == nil && !there {
				err = ErrMount
			}
			return err
		})
	}
	return g.Wait() == nil
}

// send writes the contents that are not in packs of old, the list and the manifest, whose digest it gives. old may be nil.
func (x *sending) send(ctx context.Context, old *carried) (string, error) {
	x.where, x.gone, x.new.packs, x.sent = map[digest.Digest]carriedFile{}, map[digest.Digest]bool{}, nil, 0
	if old != nil {
		x.keep(old)
	}
	if err := x.pack(ctx); err != nil {
		return "", err
	}
	c := carried{created: x.new.created, packs: x.new.packs}
	for _, f := range x.new.files {
		if f.hasBytes() {
			if x.gone[f.Digest] {
				continue
			}
			at := x.where[f.Digest]
			f.Pack, f.Offset = at.Pack, at.Offset
		}
		c.files = append(c.files, f)
	}
	return x.commit(ctx, &c)
}

// keep takes over the packs of before that are worth it: of which at least half is still needed, and that are not many small ones.
func (x *sending) keep(old *carried) {
	needed := map[digest.Digest]bool{}
	for _, f := range x.new.files {
		needed[f.Digest] = f.hasBytes()
	}
	in := make([][]carriedFile, len(old.packs))
	used, small := make([]int64, len(old.packs)), 0
	for _, f := range old.files {
		if f.hasBytes() && needed[f.Digest] {
			needed[f.Digest] = false
			in[f.Pack] = append(in[f.Pack], f)
			used[f.Pack] += f.Size
		}
	}
	for _, p := range old.packs {
		if p.size < smallPack {
			small++
		}
	}
	for i, p := range old.packs {
		if used[i] == 0 || used[i] < p.size/2 || p.size < smallPack && small > fewSmall {
			continue
		}
		for _, f := range in[i] {
			f.Pack = len(x.new.packs)
			x.where[f.Digest] = f
		}
		x.new.packs = append(x.new.packs, p)
	}
}

// pack writes contents that are in no pack into new ones, in the order of their paths.
func (x *sending) pack(ctx context.Context) error {
	var p *packing
	defer func() {
		if p != nil {
			p.abort()
		}
	}()
	for _, f := range x.new.files {
		if _, there := x.where[f.Digest]; there || !f.hasBytes() {
			continue
		}
		var err error
		if p == nil {
			if p, err = x.begin(); err != nil {
				return err
			}
		}
		at := carriedFile{Pack: len(x.new.packs), Offset: p.size, Size: f.Size}
		ok, err := p.add(ctx, x.tree, f)
		if err != nil {
			return err
		}
		if x.where[f.Digest] = at; !ok {
			x.gone[f.Digest] = true
		}
		if p.size >= packBytes {
			if err := x.finish(ctx, p); err != nil {
				return err
			}
			p = nil
		}
	}
	if p == nil {
		return nil
	}
	return x.finish(ctx, p)
}

// packing is a pack that is written.
type packing struct {
	file *os.File
	sum  hash.Hash
	z    io.WriteCloser
	size int64 // uncompressed
}

func (x *sending) begin() (*packing, error) {
	if len(x.new.packs) == maxPacks {
		return nil, fmt.Errorf("it needs more than %d packs, and cannot be carried", maxPacks)
	}
	f, err := os.CreateTemp(x.tmp, "pack")
	if err != nil {
		return nil, err
	}
	p := &packing{file: f, sum: sha256.New()}
	if p.z, err = layer.Compress(io.MultiWriter(f, p.sum), layer.Encoding{Compression: layer.Zstd}); err != nil {
		p.abort()
		return nil, err
	}
	return p, nil
}

func (p *packing) abort() {
	p.file.Close()
	os.Remove(p.file.Name())
}

// add writes a content. ok: it is the one that was listed.
func (p *packing) add(ctx context.Context, tree layer.Tree, f carriedFile) (ok bool, _ error) {
	e, err := tree.Lstat(f.Path)
	if err != nil || !e.IsRegular() || e.Size != f.Size {
		return false, nil //nolint:nilerr // it was written to, or removed, meanwhile
	}
	r, err := e.Content.Open()
	if err != nil {
		return false, nil //nolint:nilerr // likewise
	}
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(p.z, sum), io.LimitReader(layer.ContextReader(ctx, r), f.Size))
	p.size += n
	if err = errors.Join(err, r.Close()); err != nil {
		return false, err
	}
	return n == f.Size && digest.NewDigest(digest.SHA256, sum) == f.Digest, nil
}

// finish closes a pack and puts it into the cache.
func (x *sending) finish(ctx context.Context, p *packing) error {
	defer os.Remove(p.file.Name())
	err := p.z.Close()
	fi, serr := p.file.Stat()
	if err = errors.Join(err, serr, p.file.Close()); err != nil {
		return err
	}
	desc := ocispec.Descriptor{MediaType: mediaMountPack, Digest: digest.NewDigest(digest.SHA256, p.sum), Size: fi.Size()}
	err = x.at.put(ctx, desc, func(context.Context) (io.ReadCloser, error) { return os.Open(p.file.Name()) })
	if err != nil {
		return fmt.Errorf("error writing contents: %w", err)
	}
	x.new.packs = append(x.new.packs, carriedPack{desc, p.size})
	x.sent += p.size
	return nil
}

// commit writes the list and the manifest.
func (x *sending) commit(ctx context.Context, c *carried) (string, error) {
	var list bytes.Buffer
	if err := c.encode(&list); err != nil {
		return "", err
	}
	config := describe(mediaMountList, list.Bytes())
	if config.Size > maxList {
		return "", fmt.Errorf("the list of its files has more than %d bytes", maxList)
	}
	if err := x.at.put(ctx, config, bytesOpener(list.Bytes())); err != nil {
		return "", fmt.Errorf("error writing the list of files: %w", err)
	}
	layers := []ocispec.Descriptor{}
	for _, p := range c.packs {
		layers = append(layers, p.blob)
	}
	if len(layers) == 0 { // some registries take no manifest without layers
		empty := ocispec.DescriptorEmptyJSON
		if err := x.at.put(ctx, empty, bytesOpener(empty.Data)); err != nil {
			return "", fmt.Errorf("error writing the empty blob: %w", err)
		}
		layers = append(layers, empty)
	}
	raw, err := json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: artifactMount,
		Config: config, Layers: layers, Annotations: map[string]string{ocispec.AnnotationCreated: c.created.UTC().Format(time.RFC3339)},
	})
	if err != nil {
		return "", err
	}
	desc := describe(ocispec.MediaTypeImageManifest, raw)
	if err := x.at.enter(ctx, x.name, desc, raw); err != nil {
		return "", fmt.Errorf("error writing the manifest of %s: %w", x.name, err)
	}
	return desc.Digest.String(), nil
}
