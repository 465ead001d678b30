package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/slipway-build/slipway/internal/atomicfile"
	"github.com/slipway-build/slipway/internal/layer"
)

// Need says what a tree is looked at for.
type Need int

const (
	NeedContent  Need = iota // files will be read
	NeedMetadata             // only names and attributes, and perhaps a file or two
	NeedDigests              // names, attributes and the digests of contents; a blob is read through for them, and not unpacked
)

// Tree returns the merged view of a snapshot. Each layer is looked at in the form that it has; one
// that is here only as a compressed blob is unpacked when contents are needed, and only indexed
// when they are not.
func (s *Store) Tree(ctx context.Context, snap layer.Snapshot, need Need) (layer.Tree, error) {
	trees := make([]layer.Tree, len(snap))
	var g errgroup.Group
	for i, id := range snap {
		g.Go(func() (err error) {
			trees[i], err = s.layerTree(ctx, id, need) // contents are read after Wait
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	stack := make([]layer.Tree, 0, len(snap))
	for i, id := range snap {
		stack = append(stack, trees[i])
		st, err := s.stacking(ctx, id)
		if err != nil {
			return nil, err
		}
		if len(st.Links) == 0 {
			continue // trees know implied directories themselves
		}
		dirs, err := s.Dirs(ctx, snap[:i+1])
		if err != nil {
			return nil, err
		}
		stack = append(stack, s.dirTree(dirs[len(dirs)-1]))
	}
	return layer.Merged(stack), nil
}

// LayerTree is the tree of one layer by itself, with its whiteouts, to read contents of.
func (s *Store) LayerTree(ctx context.Context, id layer.ID) (layer.Tree, error) {
	return s.layerTree(ctx, id, NeedContent)
}

// OwnTree is [Store.LayerTree] of which as much is here as is needed.
func (s *Store) OwnTree(ctx context.Context, id layer.ID, need Need) (layer.Tree, error) {
	return s.layerTree(ctx, id, need)
}

func (s *Store) layerTree(ctx context.Context, id layer.ID, need Need) (_ layer.Tree, err error) {
	if t := s.seenDir(id); t != nil && need != NeedDigests {
		return t, nil
	}
	info, err := s.Layer(ctx, id)
	if err != nil {
		return nil, err
	}
	defer func() { err = ofLayer(info, err) }()
	if need == NeedDigests {
		if x, err := s.index(ctx, info, need); err != nil || x != nil {
			return indexTree(x, s.scanned(ctx, info)), err
		}
		need = NeedMetadata // there is no blob: files of a directory or a plan are digested when they are asked for
	}
	if info.Dir {
		if _, err := os.Lstat(s.layerFS(id)); err == nil {
			return s.unpackedTree(ctx, info)
		}
	}
	p := s.plan(id)
	if p != nil && info.DiffID == "" {
		return p.tree()
	}
	x, err := s.index(ctx, info, need) // it outlives the plan, which may be another build's
	if err != nil {
		return nil, err
	}
	if x == nil && p != nil {
		return p.tree()
	}
	if x == nil {
		if _, err := s.Dir(ctx, id); err != nil {
			return nil, err
		}
		return s.unpackedTree(ctx, info)
	}
	return x.Tree(s.contentOf(ctx, info)), nil
}

// indexTree is the tree of an index; nil has none.
func indexTree(x *layer.IndexFile, open func(*layer.IndexEntry) (io.ReadCloser, error)) layer.Tree {
	if x == nil {
		return nil
	}
	return x.Tree(open)
}

// unpackedTree is the tree of a layer whose directory is here. Where the directory has parents
// that the layer does not speak of, the index tells which they are.
func (s *Store) unpackedTree(ctx context.Context, info LayerInfo) (layer.Tree, error) {
	st, err := s.stacking(ctx, info.ID)
	if err != nil || len(st.Dirs) == 0 {
		return s.formTree(info.ID), err
	}
	x := s.keptIndex(info.ID)
	if x == nil {
		if x, err = s.index(ctx, info, NeedMetadata); err != nil {
			return nil, err
		}
	}
	if x == nil {
		return s.formTree(info.ID), nil // its blob is gone: there is nothing better
	}
	return x.Tree(s.contentOf(ctx, info)), nil
}

// dirTree is the tree of one layer's directory.
func (s *Store) dirTree(dir string) layer.Tree {
	return s.OpenDir(dir, layer.DirOptions{Overlay: true, Immutable: true})
}

// stacked is the merged view of overlay-native layer directories, base first.
func (s *Store) stacked(dirs []string) layer.Tree {
	trees := make([]layer.Tree, len(dirs))
	for i, dir := range dirs {
		trees[i] = s.dirTree(dir)
	}
	return layer.Merged(trees)
}

func (s *Store) indexPath(id layer.ID) string {
	return filepath.Join(s.layerDir(id), "index")
}

// index returns the index of a layer in blob form, and makes one from the blob when there is none
// and metadata will do. It is nil when the layer has to be unpacked: contents are needed, and they
// cannot be read from the blob where they are.
func (s *Store) index(ctx context.Context, info LayerInfo, need Need) (*layer.IndexFile, error) {
	if need == NeedContent && s.fetchable(info.ID) {
		if blobs, err := s.layerBlobs(ctx, info); err != nil || len(blobs) == 0 {
			return nil, err // it is unpacked while it is fetched
		}
	}
	blobs, err := s.presentBlobs(ctx, info)
	if err != nil || len(blobs) == 0 {
		return nil, err // Dir says what is wrong
	}
	plain := s.plainBlob(blobs) != ""
	if need == NeedContent && !plain {
		return nil, nil
	}
	if x := s.keptIndex(info.ID); x != nil && (need == NeedMetadata || x.Located() || need == NeedDigests && x.Digested()) {
		return x, nil
	}
	if need == NeedContent {
		return nil, nil
	}
	digested := need == NeedDigests
	v, err := s.once(ctx, fmt.Sprintf("index:%s:%t", info.ID, digested), func(ctx context.Context) (any, error) {
		tmp, err := s.leaseDir()
		if err != nil {
			return nil, err
		}
		err = s.makeIndex(ctx, info, blobs[0].Descriptor, layer.NewIndexWriter(tmp), digested)
		if errors.Is(err, layer.ErrReplaced) {
			err = s.makeIndex(ctx, info, blobs[0].Descriptor, layer.NewIndex(), digested)
		}
		if err != nil {
			return nil, err
		}
		kept, err := s.openIndex(info.ID)
		if err != nil {
			return nil, fmt.Errorf("indexing layer %s: %w", info.DiffID, err)
		}
		return kept, nil
	})
	if err != nil {
		return nil, err
	}
	return v.(*layer.IndexFile), nil
}

// indexSink is a sink that makes an index.
type indexSink interface {
	layer.Sink
	io.WriterTo
}

// digesting hands entries on with the digests of their contents, which a stream gives just once.
type digesting struct{ layer.Sink }

func (d digesting) Add(e *layer.Entry) error {
	if e.Content == nil || e.Hardlink || e.Digest != "" {
		return d.Sink.Add(e)
	}
	sum, err := layer.HashContent(e)
	if err != nil {
		return err
	}
	known := *e
	known.Digest = sum
	return d.Sink.Add(&known)
}

// makeIndex keeps the index of what a blob has, with digests of contents or without.
func (s *Store) makeIndex(ctx context.Context, info LayerInfo, blob ocispec.Descriptor, x indexSink, digested bool) error {
	sink := layer.Sink(x)
	if digested {
		sink = digesting{x}
	}
	st, err := s.readLayerBlob(ctx, blob, info.DiffID, sink)
	if err := s.settle(ctx, info, err); err != nil {
		return fmt.Errorf("indexing layer %s: %w", info.DiffID, err)
	}
	return errors.Join(s.putStacking(info.ID, st), s.putIndex(info.ID, x))
}

// keptIndex returns the index that is kept beside a layer, or nil when there is none or it is damaged.
func (s *Store) keptIndex(id layer.ID) *layer.IndexFile {
	x, err := s.openIndex(id)
	if err != nil {
		return nil
	}
	return x
}

// openIndex opens the index that is kept beside a layer. Its file is closed by its finalizer.
func (s *Store) openIndex(id layer.ID) (*layer.IndexFile, error) {
	f, err := OpenRegular(s.indexPath(id))
	if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	x, err := layer.ReadIndex(f, fi.Size())
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return x, nil
}

// putIndex keeps an index beside the layer. It carries its own checksum, and is made again when it
// is lost, so it needs no record.
func (s *Store) putIndex(id layer.ID, x io.WriterTo) error {
	return s.putBeside(s.indexPath(id), x, remade)
}

// leaseDir is where files without a name are made, in which what memory has no room for waits.
func (s *Store) leaseDir() (string, error) {
	l, err := s.current()
	if err != nil {
		return "", err
	}
	return l.dir, nil
}

// Whether a file beside a layer outlives a crash of the machine.
const (
	remade  = false // it may be lost or damaged, which whoever reads it finds out
	durable = true
)

// putBeside writes a file beside the forms of a layer. Others, who may write the same, see the old or
// the new one.
func (s *Store) putBeside(path string, data io.WriterTo, durable bool) (err error) {
	home := filepath.Dir(path)
	if err = os.Mkdir(home, 0o700); err == nil || errors.Is(err, os.ErrExist) {
		err = s.replaceBeside(path, func(f *os.File) error {
			_, err := data.WriteTo(f)
			if err == nil && durable {
				err = f.Sync()
			}
			return err
		})
	}
	if err == nil && durable {
		err = fsync(home)
	}
	if err != nil {
		return fmt.Errorf("writing %s of layer: %w", filepath.Base(path), err)
	}
	return nil
}

// replaceBeside puts the file that write fills in place of one of the store, whose directory is there.
func (s *Store) replaceBeside(path string, write func(*os.File) error) error {
	l, err := s.current()
	if err != nil {
		return err
	}
	f, err := atomicfile.Create(path, atomicfile.Options{Temporary: filepath.Join(l.dir, l.name()), Mode: 0o600})
	if err != nil {
		return err
	}
	if err = write(f.File); err == nil {
		if err = f.Commit(); err != nil && s.displace(path) {
			err = f.Commit()
		}
	}
	if err != nil {
		f.Abort()
	}
	return err
}

// fsync has a file or a directory written to the disk. Tests look when.
var fsync = func(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// plainBlob returns the digest of the uncompressed one of a layer's blobs, or "".
func (s *Store) plainBlob(blobs []layerBlob) digest.Digest {
	for _, b := range blobs {
		if b.MediaType == ocispec.MediaTypeImageLayer {
			return b.Digest
		}
	}
	return ""
}

// contentOf reads files of a layer in blob form: from their place in the plain tar, or else from
// the directory, for which the layer is unpacked then.
func (s *Store) contentOf(ctx context.Context, info LayerInfo) func(*layer.IndexEntry) (io.ReadCloser, error) {
	blob := s.blobPath(info.DiffID) // the plain tar's digest is the diffID
	return func(e *layer.IndexEntry) (io.ReadCloser, error) {
		if e.Offset >= 0 && e.Digest != "" {
			if f, err := OpenRegular(blob); err == nil {
				r := io.NewSectionReader(f, e.Offset, e.Size)
				return verified(r, f, e.Digest, func(got digest.Digest) error {
					return errors.Join(fmt.Errorf("reading layer %s: %s is %s, want %s: %w", info.DiffID, e.Path, got, e.Digest, ErrDamaged), s.dropBlob(info.DiffID))
				}), nil
			}
		}
		dir, err := s.Dir(ctx, info.ID)
		if err != nil {
			return nil, err
		}
		return layer.Open(s.dirTree(dir), e.Path)
	}
}

// contents is an index that keeps the contents of its entries.
type contents struct {
	*layer.Index
	of map[string]layer.Content
}

func (c *contents) Add(e *layer.Entry) error {
	if e.Content != nil {
		c.of[e.Path] = e.Content
	}
	return c.Index.Add(e)
}

func (c *contents) open(e *layer.IndexEntry) (io.ReadCloser, error) {
	content := c.of[e.Path]
	if content == nil {
		return nil, fmt.Errorf("reading %s: %w", e.Path, os.ErrNotExist)
	}
	return content.Open()
}
