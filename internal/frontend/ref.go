package frontend

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/distribution/reference"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/frontend/dockerui"
	gw "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"
	fstypes "github.com/tonistiigi/fsutil/types"
	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/engine"
	"github.com/slipway-build/slipway/internal/graph"
	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/store"
)

// Ref is a filesystem that the frontend may look into. It is evaluated when it does.
type Ref struct {
	client *Client
	run    *engine.Run
	edge   graph.Edge
	def    *pb.Definition
	asked  *Asked
}

var _ gw.Reference = (*Ref)(nil)

// Edge returns the edge of the graph that the reference stands for.
func (r *Ref) Edge() graph.Edge { return r.edge }

// Asked is what the frontend was asked whose result it is; nil is that it is no frontend's.
func (r *Ref) Asked() *Asked { return r.asked }

// Definition returns the graph in serialised form.
func (r *Ref) Definition() *pb.Definition { return r.def }

// ToState implements the gateway's reference.
func (r *Ref) ToState() (llb.State, error) {
	op, err := llb.NewDefinitionOp(r.def)
	if err != nil {
		return llb.State{}, fmt.Errorf("reading definition: %w", err)
	}
	return llb.NewState(op), nil
}

// Evaluate implements the gateway's reference.
func (r *Ref) Evaluate(ctx context.Context) error {
	_, err := r.run.Result(ctx, r.edge)
	return r.client.failures.typed(err)
}

func (r *Ref) tree(ctx context.Context, need store.Need) (layer.Tree, error) {
	v, err := r.run.Result(ctx, r.edge)
	if err != nil {
		return nil, r.client.failures.typed(err)
	}
	return r.run.Tree(ctx, v, need)
}

// ReadFile implements the gateway's reference.
func (r *Ref) ReadFile(ctx context.Context, req gw.ReadRequest) (_ []byte, err error) {
	done := r.run.Reading(r.edge)
	defer func() { done(nil) }() // a file that is missing may be no failure: the frontend decides
	t, err := r.tree(ctx, store.NeedContent)
	if err != nil {
		return nil, err
	}
	p, err := layer.Resolve(t, req.Filename, true)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", req.Filename, err)
	}
	f, err := layer.Open(t, p)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &os.PathError{Op: "open", Path: req.Filename, Err: syscall.ENOENT}
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", req.Filename, err)
	}
	defer f.Close()
	var src io.Reader = f
	if req.Range != nil {
		if _, err := io.CopyN(io.Discard, f, int64(req.Range.Offset)); err != nil && err != io.EOF {
			return nil, fmt.Errorf("reading %s: %w", req.Filename, err)
		}
		src = io.LimitReader(f, int64(r.headLength(req)))
	}
	data, err := io.ReadAll(src)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", req.Filename, err)
	}
	if r.isDockerfile(req) {
		if r.client.last != nil {
			if data, err = cut(data, *r.client.last); err != nil {
				return nil, err
			}
		}
		err := checkGrowth(r.client.attrs["filename"], data, r.client.attrs)
		r.client.mu.Lock()
		r.client.dockerfile, r.client.refused = data, err
		r.client.mu.Unlock()
		if err != nil {
			return nil, err
		}
	}
	return data, nil
}

// isDockerfile tells whether the frontend reads the Dockerfile: by its name, or whole as the only
// file of a context from a URL.
func (r *Ref) isDockerfile(req gw.ReadRequest) bool {
	whole := req.Range == nil || req.Range.Offset == 0 && req.Range.Length > head // up to what the frontend takes
	name := r.client.attrs["filename"]
	named := req.Filename == name || path.Base(name) == dockerui.DefaultDockerfileName && req.Filename == path.Join(path.Dir(name), strings.ToLower(dockerui.DefaultDockerfileName))
	return whole && (named || req.Filename == urlContext && r.edge.Vertex.Op.GetSource() != nil)
}

// urlContext is what the frontend calls the file of a context from a URL; head is how much of it the
// frontend reads to see whether it is an archive.
const (
	urlContext = "context"
	head       = 1024
)

// headLength is how much of a file the frontend gets. The head does not suffice for an archive that begins
// with an extended header, as `tar --format=posix` makes it.
func (r *Ref) headLength(req gw.ReadRequest) int {
	const enough = 64 << 10
	if req.Filename == urlContext && req.Range.Offset == 0 && req.Range.Length == head && r.edge.Vertex.Op.GetSource() != nil {
		return enough
	}
	return req.Range.Length
}

// StatFile implements the gateway's reference.
func (r *Ref) StatFile(ctx context.Context, req gw.StatRequest) (*fstypes.Stat, error) {
	t, err := r.tree(ctx, store.NeedMetadata)
	if err != nil {
		return nil, err
	}
	p, err := layer.Resolve(t, req.Path, true) // as BuildKit does
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", req.Path, err)
	}
	e, err := t.Lstat(p)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", req.Path, err)
	}
	return stat(e), nil
}

// ReadDir implements the gateway's reference.
func (r *Ref) ReadDir(ctx context.Context, req gw.ReadDirRequest) ([]*fstypes.Stat, error) {
	t, err := r.tree(ctx, store.NeedMetadata)
	if err != nil {
		return nil, err
	}
	p, err := layer.Resolve(t, req.Path, true)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", req.Path, err)
	}
	return readDir(t, p, req)
}

// readDir lists the directory that a request was resolved to.
func readDir(t layer.Tree, dir string, req gw.ReadDirRequest) ([]*fstypes.Stat, error) {
	entries, err := t.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", req.Path, err)
	}
	var all []*fstypes.Stat
	for _, e := range entries {
		if req.IncludePattern != "" {
			if ok, err := filepath.Match(req.IncludePattern, path.Base(e.Path)); err != nil {
				return nil, fmt.Errorf("matching %q: %w", req.IncludePattern, err)
			} else if !ok {
				continue
			}
		}
		all = append(all, stat(e))
	}
	return all, nil
}

// stat converts an entry to what the gateway's protocol speaks.
func stat(e *layer.Entry) *fstypes.Stat {
	mode := os.FileMode(e.Mode & 0o777)
	switch e.Type() {
	case unix.S_IFDIR:
		mode |= os.ModeDir
	case unix.S_IFLNK:
		mode |= os.ModeSymlink
	case unix.S_IFIFO:
		mode |= os.ModeNamedPipe
	case unix.S_IFSOCK:
		mode |= os.ModeSocket
	case unix.S_IFCHR:
		mode |= os.ModeDevice | os.ModeCharDevice
	case unix.S_IFBLK:
		mode |= os.ModeDevice
	}
	for bit, m := range map[uint32]os.FileMode{unix.S_ISUID: os.ModeSetuid, unix.S_ISGID: os.ModeSetgid, unix.S_ISVTX: os.ModeSticky} {
		if e.Mode&bit != 0 {
			mode |= m
		}
	}
	return &fstypes.Stat{
		Path: path.Base(e.Path), Mode: uint32(mode), Uid: e.UID, Gid: e.GID, Size: e.Size,
		ModTime: e.ModTime.UnixNano(), Linkname: e.Link, Devmajor: int64(e.Major), Devminor: int64(e.Minor),
	}
}

// repository returns the repository of an image reference.
func repository(ref string) (string, error) {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return "", err
	}
	return named.Name(), nil
}
