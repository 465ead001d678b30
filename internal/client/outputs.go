package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"sync"

	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/filesync"
	"github.com/tonistiigi/fsutil"
	"github.com/tonistiigi/fsutil/types"
	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer"
)

// receiver finds the session that takes outputs.
func (c *Client) receiver(ctx context.Context, doing string, send func(caller session.Caller) error) error {
	method := session.MethodURL(filesync.FileSend_ServiceDesc.ServiceName, "diffcopy")
	err := c.each(ctx, method, nil, send)
	if err == errNotServed {
		return fmt.Errorf("%s: method %s not supported by the client", doing, method)
	}
	return err
}

// Writer opens the place of an output that is one file, an archive, by the number that the client has given to the output. The
// client is told what is about the image, as its exporter's response. Close waits until the client has all of it.
func (c *Client) Writer(ctx context.Context, id int, about map[string]string) (w *Archive, err error) {
	doing := fmt.Sprintf("writing output %d to the client", id)
	ctx, cancel := c.bound(ctx, 0)
	err = c.receiver(ctx, doing, func(caller session.Caller) error {
		out, err := filesync.CopyFileWriter(ctx, about, id, caller)
		if err != nil {
			return explain(ctx, err, "%s", doing)
		}
		w = &Archive{ctx: ctx, cancel: cancel, w: out, doing: doing}
		return nil
	})
	if err != nil {
		cancel()
	}
	return w, err
}

// Archive is the place of an archive, a writer whose errors say what was done.
type Archive struct {
	ctx    context.Context
	cancel context.CancelFunc
	w      io.WriteCloser
	doing  string

	once sync.Once
	err  error
}

func (o *Archive) Write(p []byte) (int, error) {
	n, err := o.w.Write(p)
	return n, o.explain(err)
}

// explain says what an error is about. What the client has ended has an error that comes with the end.
func (o *Archive) explain(err error) error { return explain(o.ctx, err, "%s", o.doing) }

func (o *Archive) Close() error {
	o.once.Do(func() {
		o.err = o.explain(o.w.Close())
		o.cancel()
	})
	return o.err
}

// Abort ends an output that is not whole: the client is told so by the end of the stream.
func (o *Archive) Abort() {
	o.once.Do(func() {
		o.err = errClosed
		o.cancel()
	})
}

// Files has the client write the files of a tree into the directory of an output. mirror: what else is in that directory the
// client may delete, if it was told to.
func (c *Client) Files(ctx context.Context, id int, t layer.Tree, progress func(bytes int)) error {
	doing := fmt.Sprintf("writing the files of output %d to the client", id)
	ctx, cancel := c.bound(ctx, 0)
	defer cancel()
	return c.receiver(ctx, doing, func(caller session.Caller) error {
		tell := func(n int, _ bool) {
			if progress != nil {
				progress(n)
			}
		}
		// All platforms come as one tree, so the client may delete what is not in it.
		err := filesync.CopyToCaller(ctx, &treeFS{t}, id, caller, tell, filesync.WithExporterMultiPlatformTransfer())
		var own *ownError
		if errors.As(err, &own) {
			return fmt.Errorf("%s: %w", doing, own.error)
		}
		return explain(ctx, err, "%s", doing)
	})
}

// ownError is an error of what is sent, and none of the client's.
type ownError struct{ error }

func (e *ownError) Unwrap() error { return e.error }

func own(err error) error {
	if err == nil || errors.Is(err, fs.SkipDir) {
		return err
	}
	return &ownError{err}
}

// treeFS is a tree as fsutil sends it.
type treeFS struct{ tree layer.Tree }

// Walk implements fsutil.FS, for all of the tree.
func (f *treeFS) Walk(ctx context.Context, target string, fn fs.WalkDirFunc) error {
	names := map[[2]uint64]string{} // of files that have several
	return layer.Walk(f.tree, layer.Clean(target), func(e *layer.Entry) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if e.Path == "." {
			return nil
		}
		st, err := statOf(e)
		if err != nil {
			return own(err)
		}
		if e.Nlink > 1 && !e.IsSymlink() {
			id := [2]uint64{e.Dev, e.Inode}
			if first, ok := names[id]; ok {
				st.Linkname, st.Size = first, 0
			} else {
				names[id] = e.Path
			}
		}
		return fn(e.Path, &fsutil.DirEntryInfo{Stat: st}, nil)
	})
}

// Open implements fsutil.FS.
func (f *treeFS) Open(path string) (io.ReadCloser, error) {
	r, err := layer.Open(f.tree, strings.TrimPrefix(path, "/"))
	if err != nil {
		return nil, own(err)
	}
	return &ownReader{r}, nil
}

// ownReader reads what is sent.
type ownReader struct{ io.ReadCloser }

func (r *ownReader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		err = own(err)
	}
	return n, err
}

// statOf is an entry in fsutil's form.
func statOf(e *layer.Entry) (*types.Stat, error) {
	st := &types.Stat{Path: e.Path, Uid: e.UID, Gid: e.GID, Size: e.Size, ModTime: e.ModTime.UnixNano(), Devmajor: int64(e.Major), Devminor: int64(e.Minor)}
	mode := fs.FileMode(e.Mode & 0o777)
	for bit, is := range map[uint32]fs.FileMode{unix.S_ISUID: fs.ModeSetuid, unix.S_ISGID: fs.ModeSetgid, unix.S_ISVTX: fs.ModeSticky} {
		if e.Mode&bit != 0 {
			mode |= is
		}
	}
	kinds := map[uint32]fs.FileMode{
		unix.S_IFREG: 0, unix.S_IFDIR: fs.ModeDir, unix.S_IFLNK: fs.ModeSymlink, unix.S_IFIFO: fs.ModeNamedPipe, unix.S_IFSOCK: 0,
		unix.S_IFBLK: fs.ModeDevice, unix.S_IFCHR: fs.ModeDevice | fs.ModeCharDevice,
	}
	kind, ok := kinds[e.Type()]
	if !ok {
		return nil, fmt.Errorf("%q has mode %#o", e.Path, e.Mode)
	}
	st.Mode = uint32(mode | kind)
	if e.IsSymlink() {
		st.Linkname = e.Link
	}
	for k, v := range e.Xattrs {
		if st.Xattrs == nil {
			st.Xattrs = map[string][]byte{}
		}
		st.Xattrs[k] = []byte(v)
	}
	return st, nil
}
