package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/internal/layer"
)

// maxFiles is how many files of a layer a finding names.
const maxFiles = 10

// task is something that is read through.
type task struct {
	blob   digest.Digest
	layers []LayerInfo // that are read from the blob; of a directory, the one
}

// forms reads all blobs and directories.
func (c *checker) forms(ctx context.Context) error {
	var tasks []task
	of := map[digest.Digest][]LayerInfo{}
	for _, info := range c.inv.layers {
		for _, d := range c.inv.known(info) {
			of[d] = append(of[d], info)
		}
		if info.Dir {
			tasks = append(tasks, task{layers: []LayerInfo{info}})
		}
	}
	for _, d := range slices.Sorted(maps.Keys(c.inv.blobs)) {
		tasks = append(tasks, task{d, of[d]})
	}
	return parallel(ctx, tasks, func(ctx context.Context, t task) error {
		if t.blob != "" {
			return c.checkBlob(ctx, t)
		}
		return c.checkDir(ctx, t.layers[0])
	})
}

// counted tells how many bytes were read.
type counted struct {
	io.Reader
	c *checker
}

func (r counted) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.c.count(int64(n))
	return n, err
}

func (c *checker) count(n int64) {
	done := c.bytes.Add(n)
	if c.opt.Progress != nil {
		c.opt.Progress(done, c.total)
	}
}

// errContent says that a blob's content is not what its digest says.
type errContent struct{ got digest.Digest }

func (e errContent) Error() string { return "its content is " + e.got.String() }

// checkBlob reads a blob through: its digest, and what it is for layers.
func (c *checker) checkBlob(ctx context.Context, t task) error {
	if len(t.layers) > 0 {
		return c.checkLayerBlob(ctx, t)
	}
	r, err := c.openBlob(ctx, t.blob)
	if err != nil || r == nil {
		return c.unread(ctx, t.blob, err)
	}
	defer r.Close()
	_, err = io.CopyBuffer(io.Discard, struct{ io.Reader }{r}, make([]byte, 256<<10))
	return c.unread(ctx, t.blob, err)
}

// openBlob opens a blob, whose digest is verified while it is read. It is nil when it has not its size, which was told.
func (c *checker) openBlob(ctx context.Context, d digest.Digest) (io.ReadCloser, error) {
	if d.Validate() != nil {
		return nil, nil // which was told, too
	}
	f, err := OpenRegular(c.s.blobPath(d))
	if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	if err != nil || !fi.Mode().IsRegular() || fi.Size() != c.inv.blobs[d] {
		return nil, errors.Join(err, f.Close())
	}
	r := counted{layer.ContextReader(ctx, layer.SkipHoles(f, fi.Size())), c}
	return verified(r, f, d, func(got digest.Digest) error { return errContent{got} }), nil
}

// unread is a finding about a blob that could not be read as what it is, unless it is gone.
func (c *checker) unread(ctx context.Context, d digest.Digest, err error) error {
	if err == nil || ctx.Err() != nil {
		return context.Cause(ctx)
	}
	recorded, rerr := c.exists(ctx, "blobs", "digest", d.String())
	if rerr != nil || !recorded || errors.Is(err, fs.ErrNotExist) { // which the records' look tells
		return rerr
	}
	c.mu.Lock()
	c.bad[d] = true
	c.mu.Unlock()
	c.add(c.badBlob(d, err.Error()))
	return nil
}

// checkLayerBlob reads a blob of layers: its digest, its diffID, and whether the other forms of the layers are the same.
func (c *checker) checkLayerBlob(ctx context.Context, t task) error {
	beside := slices.DeleteFunc(slices.Clone(t.layers), func(l LayerInfo) bool { return !c.comparable(l) })
	sink, x := layer.Sink(discardSink{}), layer.NewIndexWriter("")
	if len(beside) > 0 {
		sink = &digestingSink{x}
	}
	stacking, diffID, err := c.readLayerBlob(ctx, t, sink)
	if errors.As(err, new(errContent)) || errors.As(err, new(*fs.PathError)) {
		return c.unread(ctx, t.blob, err)
	}
	if err != nil {
		return c.falseClaim(ctx, t, err)
	}
	if diffID == "" {
		return nil
	}
	for _, l := range t.layers {
		if err := haveDiffID(diffID, l.DiffID); err != nil {
			if err := c.falseClaim(ctx, task{t.blob, []LayerInfo{l}}, err); err != nil {
				return err
			}
		}
	}
	if len(beside) == 0 {
		return nil
	}
	tree, done, err := treeOf(x)
	if errors.Is(err, layer.ErrReplaced) { // few layers are such: memory does for them
		all := layer.NewIndex()
		if _, _, err = c.readLayerBlob(ctx, t, &digestingSink{all}); err == nil {
			tree, done = all.Tree(noContent), func() {}
		}
	}
	if err != nil {
		return err
	}
	defer done()
	for _, l := range beside {
		if err := c.compare(ctx, l, tree, stacking); err != nil {
			return err
		}
	}
	return nil
}

// readLayerBlob hands the entries of a blob to a sink. Damage is told in place of what comes from it. Without a diffID
// the blob has not its size, which was told.
func (c *checker) readLayerBlob(ctx context.Context, t task, sink layer.Sink) (st layer.Stacking, diffID digest.Digest, err error) {
	r, err := c.openBlob(ctx, t.blob)
	if err != nil || r == nil {
		return st, "", err
	}
	defer r.Close()
	st, diffID, err = readLayer(ctx, r, algorithm(t.layers[0].DiffID), sink)
	if err != nil && !errors.As(err, new(errContent)) && ctx.Err() == nil {
		if _, derr := io.Copy(io.Discard, r); derr != nil {
			err = derr
		}
	}
	return st, diffID, err
}

// treeOf is the tree of an index, which is kept in a file without a name until done is called.
func treeOf(x io.WriterTo) (_ layer.Tree, done func(), err error) {
	f, err := layer.TempFile("")
	if err != nil {
		return nil, nil, err
	}
	size, err := x.WriteTo(f)
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	index, err := layer.ReadIndex(f, size)
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return index.Tree(noContent), func() { _ = f.Close() }, nil // which was only read
}

// noContent is for trees that know digests.
func noContent(e *layer.IndexEntry) (io.ReadCloser, error) {
	return nil, fmt.Errorf("reading %s: %w", e.Path, fs.ErrNotExist)
}

// comparable reports whether a layer has something beside its blob that the blob tells about.
func (c *checker) comparable(l LayerInfo) bool {
	for _, path := range []string{c.s.indexPath(l.ID), c.s.stackingFile(l.ID)} {
		if _, err := os.Lstat(path); err == nil {
			return true
		}
	}
	return l.Dir
}

// falseClaim is a finding about layers whose blob is not what they say of it.
func (c *checker) falseClaim(ctx context.Context, t task, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	for _, l := range t.layers {
		recorded, rerr := c.exists(ctx, "layers", "id", string(l.ID))
		if rerr != nil {
			return rerr
		}
		if !recorded {
			continue
		}
		means := "what was made of it is not what it says"
		if l.Claimed {
			means = "what it came with is wrong about it, and nobody has used it so far"
		}
		c.add(Finding{Kind: "layer", Subject: string(l.ID), Problem: fmt.Sprintf("blob %s: %v", t.blob, err), Means: means,
			Repair: "forget it, and what was cached of it", mend: func(ctx context.Context) error { return c.dropLayer(ctx, l.ID) }})
	}
	return nil
}

// digestingSink hands entries on with the digests of their contents.
type digestingSink struct{ layer.Sink }

func (d *digestingSink) Add(e *layer.Entry) error {
	if e.Content != nil {
		sum, err := layer.HashContent(e)
		if err != nil {
			return err
		}
		with := *e
		with.Digest = sum
		e = &with
	}
	return d.Sink.Add(e)
}

// checkDir reads the directory form of a layer. Where it was packed here, it has to give the same tar again. Of
// another one the blob tells what should be in it, and if there is none nothing does but its size.
func (c *checker) checkDir(ctx context.Context, l LayerInfo) error {
	if !c.inv.packed(l) {
		if slices.ContainsFunc(c.inv.known(l), c.here) {
			return nil
		}
		return c.readDir(ctx, l)
	}
	hash := digest.Canonical.Hash()
	tw := layer.NewTarWriter(hash)
	tree := &readTree{c.s.dirTree(c.s.layerFS(l.ID)), c, ctx}
	err := errors.Join(layer.WriteTree(tree, &ctxSink{ctx: ctx, Sink: tw}), tw.Close())
	got := digest.NewDigest(digest.Canonical, hash)
	if err == nil && got == l.DiffID {
		return nil
	}
	if err == nil {
		err = fmt.Errorf("packed, it is %s, want %s", got, l.DiffID)
	}
	return c.wrongDir(ctx, l, c.blamed(ctx, l), err)
}

// blamed finds the files that a directory does not have as the plain tar that was made of it.
func (c *checker) blamed(ctx context.Context, l LayerInfo) (files differences) {
	x := layer.NewIndexWriter("")
	t := task{l.DiffID, []LayerInfo{l}}
	if _, diffID, err := c.readLayerBlob(ctx, t, &digestingSink{x}); err != nil || diffID == "" {
		return files // the blob is looked at by itself
	}
	tree, done, err := treeOf(x)
	if err != nil {
		return files
	}
	defer done()
	_ = layer.Diff(tree, c.s.dirTree(c.s.layerFS(l.ID)), files.add) // as far as it can be read
	return files
}

// readDir reads a directory of which nothing is known but the bytes of its files.
func (c *checker) readDir(ctx context.Context, l LayerInfo) error {
	count := &countingSink{Sink: &readingSink{}}
	err := layer.WriteTree(&readTree{c.s.dirTree(c.s.layerFS(l.ID)), c, ctx}, &ctxSink{ctx: ctx, Sink: count})
	if err == nil && l.Size >= 0 && count.bytes != l.Size {
		err = fmt.Errorf("its files have %d bytes, want %d", count.bytes, l.Size)
	}
	if err == nil {
		return nil
	}
	return c.wrongDir(ctx, l, differences{}, err)
}

// readingSink reads contents.
type readingSink struct{}

func (readingSink) Add(e *layer.Entry) error {
	if e.Content == nil {
		return nil
	}
	if _, err := layer.HashContent(e); err != nil {
		return fmt.Errorf("reading %s: %w", filepath.Join("/", e.Path), err)
	}
	return nil
}

func (readingSink) Close() error { return nil }
