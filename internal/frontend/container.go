package frontend

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"

	gw "github.com/moby/buildkit/frontend/gateway/client"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	fstypes "github.com/tonistiigi/fsutil/types"

	"github.com/slipway-build/slipway/internal/engine"
	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/sandbox"
)

// NewContainer implements the gateway client. What the container may do is what a step may. It must be released.
func (c *Client) NewContainer(ctx context.Context, req gw.NewContainerRequest) (gw.Container, error) {
	opt := engine.ContainerOptions{Network: req.NetMode, Hostname: req.Hostname, ExtraHosts: req.ExtraHosts, Platform: req.Platform}
	for _, m := range req.Mounts {
		mount := engine.ContainerMount{Mount: &pb.Mount{
			Dest: m.Dest, Selector: m.Selector, Readonly: m.Readonly, MountType: m.MountType,
			CacheOpt: m.CacheOpt, SecretOpt: m.SecretOpt, SSHOpt: m.SSHOpt,
		}}
		switch ref := m.Ref.(type) {
		case *Ref:
			mount.Edge = ref.edge
		case nil:
			if m.ResultID != "" && !c.failures.show(m.ResultID, &mount) {
				return nil, fmt.Errorf("failed to find ref %q for %q mount", m.ResultID, m.Dest)
			}
		default:
			return nil, fmt.Errorf("unexpected Ref type: %T", m.Ref)
		}
		opt.Mounts = append(opt.Mounts, mount)
	}
	ctr, err := c.opt.Run.NewContainer(ctx, opt)
	if err != nil {
		return nil, c.failures.typed(err)
	}
	return &container{ctr}, nil
}

// container is one that a client of the gateway asked for.
type container struct{ *engine.Container }

var _ gw.Container = (*container)(nil)

// Start implements the gateway's container. ctx ends the start alone.
func (c *container) Start(ctx context.Context, req gw.StartRequest) (gw.ContainerProcess, error) {
	p := engine.ContainerProcess{
		Args: req.Args, Env: req.Env, SecretEnv: req.SecretEnv, Cwd: req.Cwd, User: req.User, Terminal: req.Tty, Security: req.SecurityMode,
	}
	// Not nil in another type.
	if req.Stdin != nil {
		p.Streams.Stdin = req.Stdin
	}
	if req.Stdout != nil {
		p.Streams.Stdout = req.Stdout
	}
	if req.Stderr != nil && !req.Tty {
		p.Streams.Stderr = req.Stderr
	}
	r, err := c.Container.Start(ctx, p)
	if err != nil {
		return nil, err
	}
	return &containerProcess{r}, nil
}

// Release implements the gateway's container.
func (c *container) Release(context.Context) error {
	return exitError(c.Close())
}

// ReadFile implements the gateway's container.
func (c *container) ReadFile(_ context.Context, req gw.ReadContainerRequest) ([]byte, error) {
	t, p, err := c.at(req.MountIndex, req.Filename, true)
	if err != nil {
		return nil, err
	}
	f, err := layer.Open(t, p)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &os.PathError{Op: "open", Path: req.Filename, Err: syscall.ENOENT}
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", req.Filename, err)
	}
	defer f.Close()
	return readPart(f, req.Filename, req.Range)
}

// readPart reads a part of a file; nil is all of it.
func readPart(f io.Reader, name string, part *gw.FileRange) ([]byte, error) {
	if part != nil {
		if part.Offset < 0 || part.Length < 0 {
			return nil, fmt.Errorf("invalid range for %s", name)
		}
		if _, err := io.CopyN(io.Discard, f, int64(part.Offset)); err != nil && !errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("reading %s: %w", name, err)
		}
		f = io.LimitReader(f, int64(part.Length))
	}
	data, err := io.ReadAll(f)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	return data, nil
}

// StatFile implements the gateway's container. As in BuildKit a link is followed, unless it leads out of the mount, as one with
// an absolute target does: the client knows what the root is.
func (c *container) StatFile(_ context.Context, req gw.StatContainerRequest) (*fstypes.Stat, error) {
	t, p, err := c.at(req.MountIndex, req.Path, false)
	if err != nil {
		return nil, err
	}
	e, err := t.Lstat(p)
	if err == nil && e.IsSymlink() && !strings.HasPrefix(e.Link, "/") {
		if p, err = layer.Resolve(t, req.Path, true); err == nil {
			e, err = t.Lstat(p)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", req.Path, err)
	}
	s := stat(e)
	s.Path = path.Base(req.Path)
	return s, nil
}

// ReadDir implements the gateway's container.
func (c *container) ReadDir(_ context.Context, req gw.ReadDirContainerRequest) ([]*fstypes.Stat, error) {
	t, p, err := c.at(req.MountIndex, req.Path, true)
	if err != nil {
		return nil, err
	}
	return readDir(t, p, req.ReadDirRequest)
}

// at is the tree of a mount with a path in it.
func (c *container) at(mount int, name string, follow bool) (layer.Tree, string, error) {
	if !path.IsAbs(path.Clean(name)) {
		return nil, "", fmt.Errorf("can't make %s relative to /", name)
	}
	t, err := c.Tree(mount)
	if err != nil {
		return nil, "", err
	}
	p, err := layer.Resolve(t, name, follow)
	if err != nil {
		return nil, "", fmt.Errorf("reading %s: %w", name, err)
	}
	return t, p, nil
}

// containerProcess is a process of such a container.
type containerProcess struct{ *engine.Running }

var _ gw.ContainerProcess = (*containerProcess)(nil)

// Wait implements the gateway's process.
func (p *containerProcess) Wait() error {
	return exitError(p.Running.Wait())
}

// exitError makes an error that has an exit code BuildKit's.
func exitError(err error) error {
	var exit *sandbox.ExitError
	if errors.As(err, &exit) {
		return &gwpb.ExitError{ExitCode: uint32(exit.Code), Err: err}
	}
	return err
}

// Signal implements the gateway's process. One that ends it ends what it has started too.
func (p *containerProcess) Signal(ctx context.Context, sig syscall.Signal) error {
	p.Running.Signal(ctx, sig)
	return nil
}

// Resize implements the gateway's process.
func (p *containerProcess) Resize(ctx context.Context, size gw.WinSize) error {
	p.Running.Resize(ctx, sandbox.WinSize{Rows: uint16(min(size.Rows, 1<<16-1)), Cols: uint16(min(size.Cols, 1<<16-1))})
	return nil
}
