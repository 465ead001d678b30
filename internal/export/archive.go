package export

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/store"
)

// place is where the files of an OCI layout go: a tar stream or a directory.
type place interface {
	file(name string, size int64, r io.Reader) error
}

// tarPlace writes a tar archive whose bytes depend on nothing but the files.
type tarPlace struct{ w *tar.Writer }

func (p tarPlace) file(name string, size int64, r io.Reader) error {
	hdr := &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644, ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR}
	if err := p.w.WriteHeader(hdr); err != nil {
		return err
	}
	_, err := io.Copy(p.w, r)
	return err
}

type dirPlace string

func (p dirPlace) file(name string, _ int64, r io.Reader) (err error) {
	path := filepath.Join(string(p), name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	_, err = layer.CopySparse(f, r)
	return err
}

// OCIArchive writes an OCI image layout as a tar archive. Names are full image names. With docker
// set it also has the manifest.json that `docker load` reads.
func OCIArchive(ctx context.Context, s *store.Store, a *Assembly, names []string, docker bool, w io.Writer) error {
	tw := tar.NewWriter(w)
	for _, dir := range []string{"blobs/", "blobs/sha256/"} { // as Docker and containerd have it
		hdr := &tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755, ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR}
		if err := tw.WriteHeader(hdr); err != nil {
			return fmt.Errorf("writing archive: %w", err)
		}
	}
	if err := layout(ctx, s, a, names, docker, tarPlace{tw}); err != nil {
		return err
	}
	if err := tw.Close(); err != nil {
		return fmt.Errorf("writing archive: %w", err)
	}
	return nil
}

// OCIDir writes an OCI image layout into a directory.
func OCIDir(ctx context.Context, s *store.Store, a *Assembly, names []string, dir string) error {
	return layout(ctx, s, a, names, false, dirPlace(dir))
}

// OCIBlobs hands all blobs of an image to put, each after those that it refers to: for a layout that somebody else makes of
// them.
func OCIBlobs(ctx context.Context, s *store.Store, a *Assembly, put func(ctx context.Context, desc ocispec.Descriptor, r io.Reader) error) error {
	for _, desc := range a.blobs() {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		r, err := s.OpenBlob(ctx, desc.Digest)
		if err == nil {
			err = errors.Join(put(ctx, desc, r), r.Close())
		}
		if err != nil {
			return fmt.Errorf("writing blobs: %w", err)
		}
	}
	return nil
}

func layout(ctx context.Context, s *store.Store, a *Assembly, names []string, docker bool, p place) error {
	var files []func() error
	jsonFile := func(name string, v any) {
		files = append(files, func() error { return putJSON(p, name, v) })
	}
	jsonFile(ocispec.ImageLayoutFile, ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion})
	for _, desc := range a.blobs() {
		files = append(files, func() error { return putBlob(ctx, s, p, desc) })
	}
	jsonFile(ocispec.ImageIndexFile, layoutIndex(a.Target, names))
	if docker {
		jsonFile("manifest.json", dockerManifest(a.Images[0], names))
	}
	for _, f := range files {
		if err := f(); err != nil {
			return fmt.Errorf("writing archive: %w", err)
		}
	}
	return nil
}

func layoutIndex(target ocispec.Descriptor, names []string) ocispec.Index {
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	if len(names) == 0 {
		index.Manifests = []ocispec.Descriptor{target}
	}
	for _, name := range names {
		desc := target
		_, tag := store.FamiliarName(name)
		desc.Annotations = map[string]string{"io.containerd.image.name": name, ocispec.AnnotationRefName: tag}
		maps.Copy(desc.Annotations, target.Annotations)
		index.Manifests = append(index.Manifests, desc)
	}
	return index
}

// dockerManifest is manifest.json of `docker save`.
func dockerManifest(img Image, names []string) any {
	type entry struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	e := entry{Config: blobName(img.Config), Layers: []string{}}
	for _, n := range names {
		repo, tag := store.FamiliarName(n)
		e.RepoTags = append(e.RepoTags, repo+":"+tag)
	}
	for _, l := range img.Layers {
		e.Layers = append(e.Layers, blobName(l))
	}
	return []entry{e}
}

func blobName(desc ocispec.Descriptor) string {
	return "blobs/" + string(desc.Digest.Algorithm()) + "/" + desc.Digest.Encoded()
}

func putBlob(ctx context.Context, s *store.Store, p place, desc ocispec.Descriptor) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	r, err := s.OpenBlob(ctx, desc.Digest)
	if err != nil {
		return err
	}
	return errors.Join(p.file(blobName(desc), desc.Size, r), r.Close())
}

func putJSON(p place, name string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return p.file(name, int64(len(data)), bytes.NewReader(data))
}
