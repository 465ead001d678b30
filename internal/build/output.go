package build

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/internal/engine"
	"github.com/slipway-build/slipway/internal/export"
	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/progress"
	"github.com/slipway-build/slipway/internal/store"
)

// outputAttrs are the attributes that each output type knows.
var outputAttrs = map[OutputType][]string{
	OutputImage:  {"name", "compression", "compression-level"},
	OutputOCI:    {"name", "compression", "compression-level", "tar"},
	OutputDocker: {"name", "compression", "compression-level"},
	OutputLocal:  {},
	OutputTar:    {},
}

func (o *Output) check() error {
	known, ok := outputAttrs[o.Type]
	if !ok {
		return fmt.Errorf("output type %q is not supported: use image, oci, docker, local or tar", o.Type)
	}
	for key := range o.Attrs {
		if !slices.Contains(known, key) {
			return fmt.Errorf("output attribute %q is not supported for type %s", key, o.Type)
		}
	}
	if _, err := o.encoding(); err != nil {
		return err
	}
	if o.Type != OutputImage && o.Dest == "" && o.Writer == nil {
		return fmt.Errorf("output type %s needs dest=PATH", o.Type)
	}
	return nil
}

// encoding is how layers made here are compressed: by gzip in archives, as BuildKit has it, and not
// at all in the local store.
func (o *Output) encoding() (layer.Encoding, error) {
	var e layer.Encoding
	switch v := o.Attrs["compression"]; v {
	case "":
		if o.Type != OutputImage {
			e.Compression = layer.Gzip
		}
	case "gzip", "zstd":
		e.Compression = layer.Compression(v)
	case "uncompressed":
	default:
		return e, fmt.Errorf("compression %q is not supported: use gzip, zstd or uncompressed", v)
	}
	if v := o.Attrs["compression-level"]; v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 1 {
			return e, fmt.Errorf("compression-level %q is no level", v)
		}
		e.Level = n
	}
	return e, e.Check()
}

// export carries out all outputs. Images are named last, when nothing can fail any more.
func (b *building) export(ctx context.Context, src export.Source, value engine.Value, res *Result) error {
	outputs := b.req.Outputs
	if len(outputs) == 0 {
		outputs = []Output{{Type: OutputImage}}
	}
	var images []store.Image
	for _, o := range outputs {
		step := progress.Start(b.sink, progress.Vertex{Digest: digest.FromString("export " + string(o.Type) + o.Dest), Name: exportName(o)})
		named, err := b.exportOne(ctx, o, src, value, res, step)
		step.Done(err)
		if err != nil {
			return err
		}
		images = append(images, named...)
	}
	if len(images) == 0 {
		return nil
	}
	return b.opt.Store.SetImages(ctx, images...)
}

func exportName(o Output) string {
	switch o.Type {
	case OutputImage:
		return "exporting to image"
	case OutputOCI:
		return "exporting to oci image format"
	case OutputDocker:
		return "exporting to docker image format"
	case OutputLocal:
		return "exporting to client directory"
	}
	return "exporting to client tarball"
}

func (b *building) exportOne(ctx context.Context, o Output, src export.Source, value engine.Value, res *Result, step *progress.Step) ([]store.Image, error) {
	switch o.Type {
	case OutputLocal, OutputTar:
		tree, err := b.run.Tree(ctx, value, store.NeedContent)
		if err != nil {
			return nil, err
		}
		if o.Type == OutputLocal {
			return nil, export.Local(tree, o.Dest)
		}
		return nil, o.write(func(w io.Writer) error { return export.Tar(tree, w) })
	}
	encoding, err := o.encoding()
	if err != nil {
		return nil, err
	}
	step.Status("exporting layers", 0, 0, false)
	img, err := export.Assemble(ctx, b.opt.Store, src, encoding)
	if err != nil {
		return nil, err
	}
	step.Status("exporting layers", 0, 0, true)
	step.Status("writing image "+img.Config.Digest.String(), 0, 0, true)
	res.ImageID, res.Manifest = img.Config.Digest, img.Manifest
	switch {
	case o.Type == OutputImage:
		for _, name := range b.names {
			step.Status("naming to "+name, 0, 0, true)
		}
		return named(img, b.names), nil
	case o.Type == OutputOCI && o.Attrs["tar"] == "false":
		return nil, export.OCIDir(ctx, b.opt.Store, img, b.names, o.Dest)
	}
	return nil, o.write(func(w io.Writer) error {
		return export.OCIArchive(ctx, b.opt.Store, img, b.names, o.Type == OutputDocker, w)
	})
}

// named lists the records of an image, one per name; an image without a name has one too.
func named(img export.Image, names []string) []store.Image {
	rec := store.Image{Manifest: img.Manifest, ID: img.Config.Digest, Created: img.Created, Layers: img.Snapshot, Size: img.Size}
	if len(names) == 0 {
		rec.Name = rec.ID.String()
		return []store.Image{rec}
	}
	var all []store.Image
	for _, n := range names {
		rec.Name = n
		all = append(all, rec)
	}
	return all
}

// write gives the output's stream to fn. A file appears under its name only when it is whole.
func (o *Output) write(fn func(io.Writer) error) (err error) {
	if o.Writer != nil {
		return fn(o.Writer)
	}
	fi, err := os.Stat(o.Dest)
	switch {
	case err == nil && fi.IsDir():
		return fmt.Errorf("writing output: dest %s is a directory, want a file", o.Dest)
	case err == nil && !fi.Mode().IsRegular():
		return o.writeThrough(fn)
	}
	f, err := os.CreateTemp(filepath.Dir(o.Dest), "."+filepath.Base(o.Dest)+".*")
	if err != nil {
		return fmt.Errorf("writing output: %w", err)
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	buf := bufio.NewWriterSize(f, 1<<20)
	if err := errors.Join(fn(buf), buf.Flush(), f.Chmod(0o644), f.Close()); err != nil {
		return fmt.Errorf("writing output: %w", err)
	}
	if err := os.Rename(f.Name(), o.Dest); err != nil {
		return fmt.Errorf("writing output: %w", err)
	}
	return nil
}

// writeThrough writes into what is there: a pipe or a device is not to be replaced by a file.
func (o *Output) writeThrough(fn func(io.Writer) error) error {
	f, err := os.OpenFile(o.Dest, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("writing output: %w", err)
	}
	buf := bufio.NewWriterSize(f, 1<<20)
	if err := errors.Join(fn(buf), buf.Flush(), f.Close()); err != nil {
		return fmt.Errorf("writing output: %w", err)
	}
	return nil
}
