package build

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/containerd/errdefs"

	"github.com/slipway-build/slipway/internal/atomicfile"
	"github.com/slipway-build/slipway/internal/client"
	"github.com/slipway-build/slipway/internal/export"
	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/progress"
	"github.com/slipway-build/slipway/internal/store"
)

// place is where an output goes that is no image in the store: this machine's, or a client's.
type place interface {
	// archive gives the stream of an archive to fn. about is what the exporter says of it.
	archive(ctx context.Context, about map[string]string, fn func(io.Writer) error) error
	// layout writes an image as an OCI layout in a directory.
	layout(ctx context.Context, s *store.Store, a *export.Assembly, names []string) error
	// files writes root filesystems into a directory.
	files(ctx context.Context, s *store.Store, all []export.Files, split bool) error
}

// place is that of the output with the number i.
func (b *building) place(o *Output, i int) place {
	if b.req.Client != nil {
		return away{b.req.Client, i}
	}
	return here{o}
}

// here is a path or a stream of this machine.
type here struct{ *Output }

func (h here) layout(ctx context.Context, s *store.Store, a *export.Assembly, names []string) error {
	return export.OCIDir(ctx, s, a, names, h.Dest)
}

func (h here) files(_ context.Context, _ *store.Store, all []export.Files, split bool) error {
	return export.Local(all, split, h.Dest)
}

// archive implements place. A file appears under its name only when it is whole.
func (h here) archive(_ context.Context, _ map[string]string, fn func(io.Writer) error) error {
	if h.Writer != nil {
		return fn(h.Writer)
	}
	fi, err := os.Stat(h.Dest)
	switch {
	case err == nil && fi.IsDir():
		return fmt.Errorf("writing output: dest %s is a directory, want a file", h.Dest)
	case err == nil && !fi.Mode().IsRegular():
		return h.through(fn)
	}
	err = atomicfile.Write(h.Dest, atomicfile.Options{Mode: 0o666}, func(f *os.File) error { // the mode of BuildKit's client
		out := layer.NewSparseWriter(f)
		buf := bufio.NewWriterSize(out, 1<<20)
		return errors.Join(fn(buf), buf.Flush(), out.Flush())
	})
	if err != nil {
		return fmt.Errorf("writing output: %w", err)
	}
	return nil
}

// through writes into what is there: a pipe or a device is not to be replaced by a file.
func (h here) through(fn func(io.Writer) error) error {
	f, err := os.OpenFile(h.Dest, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("writing output: %w", err)
	}
	buf := bufio.NewWriterSize(f, 1<<20)
	if err := errors.Join(fn(buf), buf.Flush(), f.Close()); err != nil {
		return fmt.Errorf("writing output: %w", err)
	}
	return nil
}

// away is with a client, who knows an output by its number.
type away struct {
	client *client.Client
	id     int
}

// clientBuffer is how much is sent to a client by one message.
const clientBuffer = 1 << 20

func (a away) archive(ctx context.Context, about map[string]string, fn func(io.Writer) error) error {
	err := a.send(ctx, about, fn)
	if errors.Is(err, errdefs.ErrAlreadyExists) { // it has what about says, and wants nothing
		return nil
	}
	return err
}

func (a away) send(ctx context.Context, about map[string]string, fn func(io.Writer) error) error {
	w, err := a.client.Writer(ctx, a.id, about)
	if err != nil {
		return err
	}
	buf := bufio.NewWriterSize(w, clientBuffer)
	if err := errors.Join(fn(buf), buf.Flush()); err != nil {
		w.Abort()
		return err
	}
	return w.Close()
}

func (a away) layout(ctx context.Context, s *store.Store, x *export.Assembly, _ []string) error {
	return export.OCIBlobs(ctx, s, x, a.client.Blobs("", client.ExportStore).Write)
}

func (a away) files(ctx context.Context, s *store.Store, all []export.Files, split bool) (err error) {
	tmp, err := s.TempDir()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	tree, err := export.Tree(all, split, tmp)
	if err != nil {
		return err
	}
	return a.client.Files(ctx, a.id, tree, nil)
}

// archived is told while an archive is written.
func archived(step *progress.Step, write func() error) error {
	step.Status("sending tarball", 0, 0, false)
	if err := write(); err != nil {
		return err
	}
	step.Status("sending tarball", 0, 0, true)
	return nil
}
