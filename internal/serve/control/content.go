package control

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/pkg/filters"
	cerrdefs "github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
)

// records are the files of all records, as a store of content that nobody writes to.
type records struct{ s *Server }

var errReadOnly = fmt.Errorf("read-only content store: %w", cerrdefs.ErrNotImplemented)

var notWritten = status.Error(codes.Unimplemented, errReadOnly.Error())

// readOnly is the service of a store of content that nobody writes to: what is written is not looked at, in which containerd's takes for
// granted that nothing is missing.
type readOnly struct{ contentapi.ContentServer }

func (readOnly) Update(context.Context, *contentapi.UpdateRequest) (*contentapi.UpdateResponse, error) {
	return nil, notWritten
}

func (readOnly) Write(contentapi.Content_WriteServer) error { return notWritten }

func (readOnly) Delete(context.Context, *contentapi.DeleteContentRequest) (*emptypb.Empty, error) {
	return nil, notWritten
}

func (readOnly) Abort(context.Context, *contentapi.AbortRequest) (*emptypb.Empty, error) {
	return nil, notWritten
}

// openKept opens a file of a record. What is no regular file is none.
func openKept(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		return nil, errors.Join(fmt.Errorf("%s is no regular file", path), err, f.Close())
	}
	return f, nil
}

// open opens the file of a build with a digest.
func (k *kept) open(sum digest.Digest) (*os.File, error) {
	name := k.files[sum]
	if name == textFile {
		return k.openEvents()
	}
	if name == "" || filepath.Base(name) != name || !filepath.IsLocal(name) {
		return nil, fmt.Errorf("content %s: %w", sum, cerrdefs.ErrNotFound)
	}
	f, err := openKept(filepath.Join(k.dir, name))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("content %s: %w", sum, cerrdefs.ErrNotFound)
	}
	return f, err
}

// find opens the file with a digest, of whatever build.
func (c *records) find(sum digest.Digest) (*os.File, *kept, error) {
	b, release, err := c.s.opt.Acquire()
	if err != nil {
		return nil, nil, err
	}
	defer release()
	all, err := c.s.history.list(b.Store)
	if err != nil {
		return nil, nil, err
	}
	for _, k := range all {
		if !k.running && k.files[sum] != "" {
			f, err := k.open(sum)
			if err == nil || !cerrdefs.IsNotFound(err) {
				return f, k.kept, err
			}
		}
	}
	return nil, nil, fmt.Errorf("content %s: %w", sum, cerrdefs.ErrNotFound)
}

func info(sum digest.Digest, f *os.File, k *kept) (content.Info, error) {
	fi, err := f.Stat()
	if err != nil {
		return content.Info{}, err
	}
	made := k.rec.CompletedAt.AsTime()
	return content.Info{Digest: sum, Size: fi.Size(), CreatedAt: made, UpdatedAt: made}, nil
}

// Info implements content.Store.
func (c *records) Info(_ context.Context, sum digest.Digest) (content.Info, error) {
	f, k, err := c.find(sum)
	if err != nil {
		return content.Info{}, err
	}
	defer f.Close()
	return info(sum, f, k)
}

// ReaderAt implements content.Store.
func (c *records) ReaderAt(_ context.Context, d ocispec.Descriptor) (content.ReaderAt, error) {
	f, _, err := c.find(d.Digest)
	if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &sizedFile{f, fi.Size()}, nil
}

type sizedFile struct {
	*os.File
	size int64
}

// Size implements content.ReaderAt.
func (f *sizedFile) Size() int64 { return f.size }

// Walk implements content.Store.
func (c *records) Walk(ctx context.Context, fn content.WalkFunc, by ...string) error {
	filter, err := filters.ParseAll(by...)
	if err != nil {
		return err
	}
	b, release, err := c.s.opt.Acquire()
	if err != nil {
		return err
	}
	defer release()
	all, err := c.s.history.list(b.Store)
	if err != nil {
		return err
	}
	told := map[digest.Digest]bool{}
	for _, k := range all {
		for sum := range k.files {
			if err := context.Cause(ctx); err != nil {
				return err
			}
			if k.running || told[sum] {
				continue
			}
			told[sum] = true
			f, err := k.open(sum)
			if err != nil {
				continue // it was pruned
			}
			i, err := info(sum, f, k.kept)
			f.Close()
			if err == nil && filter.Match(content.AdaptInfo(i)) {
				err = fn(i)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// Writer implements content.Store, and refuses.
func (c *records) Writer(context.Context, ...content.WriterOpt) (content.Writer, error) {
	return nil, errReadOnly
}

// Delete implements content.Store, and refuses.
func (c *records) Delete(context.Context, digest.Digest) error { return errReadOnly }

// Update implements content.Store, and refuses.
func (c *records) Update(context.Context, content.Info, ...string) (content.Info, error) {
	return content.Info{}, errReadOnly
}

// Abort implements content.Store, and refuses.
func (c *records) Abort(context.Context, string) error { return errReadOnly }

// Status implements content.Store: nothing is written.
func (c *records) Status(_ context.Context, ref string) (content.Status, error) {
	return content.Status{}, fmt.Errorf("ref %s: %w", ref, cerrdefs.ErrNotFound)
}

// ListStatuses implements content.Store: nothing is written.
func (c *records) ListStatuses(context.Context, ...string) ([]content.Status, error) { return nil, nil }
