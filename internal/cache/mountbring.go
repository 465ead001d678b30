package cache

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/registry"
	"github.com/slipway-build/slipway/internal/store"
)

// Import makes a mount of the store what the cache has of it, if there is none, or one that nobody has used since that was written. Contents that are
// here are not fetched. Whatever the cache says, nothing is written but files of the mount. It reports whether the mount is another one now.
func (m *Mounts) Import(ctx context.Context, s *store.Store, client *registry.Client, one Mount, tell Tell) (changed bool, err error) {
	at, err := openNames(m.location, nil, client)
	if err != nil {
		return false, err
	}
	used, err := s.CacheUsed(one.ID)
	if err != nil {
		return false, err
	}
	known := ""
	if !used.IsZero() {
		if known, _, err = s.Memo(ctx, m.synced(one)); err != nil {
			return false, err
		}
	}
	has, version, err := findMount(ctx, at, m.nameAt(m.location, one), known)
	if err != nil || has == nil || !used.IsZero() && !used.Before(has.created) {
		return false, err
	}
	fetched := int64(0)
	changed, err = s.ReplaceCache(one.ID, used, func(old, dir string) error {
		b := &bringing{carried: has, at: at, store: s}
		if old != "" {
			b.old = s.MountTree(old)
		}
		err := b.bring(ctx, dir)
		fetched = b.fetched
		return err
	})
	switch {
	case err != nil:
		return false, err
	case !changed:
		tell(one.Describe()+" is in use, and stays as it is", true)
		return false, nil
	}
	tell(fmt.Sprintf("cache mount %s: %d files, %d bytes were fetched", one.Describe(), len(has.files), fetched), true)
	return true, s.PutMemo(ctx, m.synced(one), version)
}

// bringing is a mount while it is imported.
type bringing struct {
	*carried
	at      named
	store   *store.Store
	old     layer.Tree // the mount as it is here; nil: it is not
	fetched int64      // bytes of packs, compressed

	contents map[digest.Digest]layer.Content
}

// bring writes the files into a directory.
func (b *bringing) bring(ctx context.Context, dir string) error {
	tmp, err := b.store.TempDir()
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	b.contents = map[digest.Digest]layer.Content{}
	if err := b.reuse(ctx); err != nil {
		return err
	}
	if err := b.fetch(ctx, tmp); err != nil {
		return err
	}
	w, err := b.store.MountWriter(dir)
	if err != nil {
		return err
	}
	for i := range b.files {
		e := b.files[i].entry()
		e.Content = b.contents[e.Digest]
		if err = w.Add(e); err != nil {
			break
		}
	}
	return errors.Join(err, w.Close())
}

// reuse finds contents in the mount as it is here.
func (b *bringing) reuse(ctx context.Context) error {
	if b.old == nil {
		return nil
	}
	sizes := map[int64]bool{}
	wanted := map[digest.Digest]bool{}
	for i := range b.files {
		if f := &b.files[i]; f.hasBytes() {
			sizes[f.Size], wanted[f.Digest] = true, true
		}
	}
	return layer.WalkLive(b.old, ".", false, func(e *layer.Entry) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if !e.IsRegular() || !sizes[e.Size] {
			return nil
		}
		if d, err := layer.HashContent(e); err == nil && wanted[d] { // else it was written to meanwhile
			b.contents[d] = e.Content
		}
		return nil
	})
}

// fetch fetches the packs with contents that are not here, into files of a directory.
func (b *bringing) fetch(ctx context.Context, tmp string) error {
	missing := make([][]*carriedFile, len(b.packs))
	for i := range b.files {
		f := &b.files[i]
		if !f.hasBytes() || b.contents[f.Digest] != nil {
			continue
		}
		b.contents[f.Digest] = layer.Bytes(nil) // until it is there
		missing[f.Pack] = append(missing[f.Pack], f)
	}
	for i, files := range missing {
		if len(files) == 0 {
			continue
		}
		if err := b.unpack(ctx, tmp, b.packs[i], files); err != nil {
			return fmt.Errorf("%w: contents %s: %w", ErrMount, b.packs[i].blob.Digest, err)
		}
		b.fetched += b.packs[i].blob.Size
	}
	return nil
}

// unpack fetches one pack, all of which is written down, and finds the contents of files in it.
func (b *bringing) unpack(ctx context.Context, tmp string, p carriedPack, files []*carriedFile) (err error) {
	r, err := b.at.open(ctx, p.blob)
	if err != nil {
		return err
	}
	defer r.Close()
	verified := p.blob.Digest.Verifier()
	raw := io.TeeReader(io.LimitReader(layer.ContextReader(ctx, r), p.blob.Size), verified)
	z, err := layer.Decompress(raw)
	if err != nil {
		return err
	}
	defer z.Close()
	out, err := os.CreateTemp(tmp, "pack")
	if err != nil {
		return err
	}
	defer out.Close()
	n, err := io.Copy(out, io.LimitReader(z, p.size+1))
	if err != nil {
		return err
	}
	if n != p.size {
		return fmt.Errorf("they are not the %d bytes that they are said to be", p.size)
	}
	if _, err := io.Copy(io.Discard, raw); err != nil {
		return err
	}
	if !verified.Verified() {
		return errContent
	}
	for _, f := range files {
		if b.contents[f.Digest], err = section(out, f); err != nil {
			return err
		}
	}
	return nil
}

// packed is a content in a pack that was written down.
type packed struct {
	path         string
	offset, size int64
}

// section checks a content of a pack.
func section(pack *os.File, f *carriedFile) (layer.Content, error) {
	sum := sha256.New()
	if _, err := io.Copy(sum, io.NewSectionReader(pack, f.Offset, f.Size)); err != nil {
		return nil, err
	}
	if got := digest.NewDigest(digest.SHA256, sum); got != f.Digest {
		return nil, fmt.Errorf("file %q: %w: it has %s", f.Path, errContent, got)
	}
	return packed{pack.Name(), f.Offset, f.Size}, nil
}

// Open implements [layer.Content].
func (p packed) Open() (io.ReadCloser, error) {
	f, err := os.OpenFile(p.path, os.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{io.NewSectionReader(f, p.offset, p.size), f}, nil
}
