package main

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/pgzip"
	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/hack/bases/baseimage"
	"github.com/slipway-build/slipway/hack/bases/library"
	"github.com/slipway-build/slipway/internal/registry/registrytest"
)

// serve is the second process: it makes the images, serves them under the names that Dockerfiles
// use, tells where on standard output, and ends when standard input does.
func serve(ctx context.Context, s settings) error {
	bases, err := library.Open(s.bases)
	if err != nil {
		return err
	}
	kinds := []string{"busybox", "golang"}
	if s.debian {
		kinds = append(kinds, "debian")
	}
	for _, kind := range kinds {
		if _, err := bases.Make(ctx, kind); err != nil {
			return fmt.Errorf("making base image %s: %w", kind, err)
		}
	}
	mux := http.NewServeMux()
	mux.Handle("/", bases.Handler())
	var tell served
	if s.toolset {
		handler, err := makeToolset(s.serve, &tell)
		if err != nil {
			return fmt.Errorf("making image toolset: %w", err)
		}
		mux.Handle("/v2/library/toolset/", handler)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	tell.Addr = listener.Addr().String()
	mirrors := map[string][]string{"docker.io": {"http://" + tell.Addr}}
	if err := registrytest.WriteCertsD(filepath.Join(s.serve, "certs.d"), mirrors); err != nil {
		return err
	}
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	if err := json.NewEncoder(os.Stdout).Encode(tell); err != nil {
		return err
	}
	hangUp := make(chan struct{})
	go func() {
		io.Copy(io.Discard, os.Stdin)
		close(hangUp)
	}()
	select {
	case <-hangUp: // also what follows an interrupt: the first process still cleans up
		return server.Close()
	case err := <-failed:
		return err
	}
}

// makeToolset makes an image of two layers, each a Go tool chain, the lower one with busybox,
// and a registry that has it as library/toolset.
func makeToolset(dir string, tell *served) (http.Handler, error) {
	busybox, err := baseimage.FindBusybox()
	if err != nil {
		return nil, err
	}
	tree := treeIn(dir)
	lower, err := fileLayer(filepath.Join(dir, "layer0"), func(w *tar.Writer) error {
		if err := tarDir(w, "bin/"); err != nil {
			return err
		}
		if err := tarFile(w, busybox, "bin/busybox", nil); err != nil {
			return err
		}
		for _, name := range []string{"bin/sh", "bin/true"} {
			if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: "busybox", Mode: 0o777}); err != nil {
				return err
			}
		}
		return errors.Join(tarDir(w, "usr/"), tarDir(w, "usr/local/"), tarTree(w, tree, "usr/local/go", &tell.Tree))
	})
	if err != nil {
		return nil, err
	}
	upper, err := fileLayer(filepath.Join(dir, "layer1"), func(w *tar.Writer) error {
		return errors.Join(tarDir(w, "opt/"), tarTree(w, tree, "opt/toolset", &treeStat{}))
	})
	if err != nil {
		return nil, err
	}
	for _, l := range []*packed{lower, upper} {
		tell.Layers = append(tell.Layers, blobStat{Digest: digest.Digest(l.digest.String()), Size: l.size})
	}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	if img, err = mutate.AppendLayers(img, lower, upper); err != nil {
		return nil, err
	}
	file, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.OS, file.Architecture = "linux", runtime.GOARCH
	file.Config = v1.Config{Env: []string{"PATH=/usr/local/go/bin:/bin"}, Cmd: []string{"sh"}}
	if img, err = mutate.ConfigFile(img, file); err != nil {
		return nil, err
	}
	lib := filepath.Join(dir, "toolset")
	oci, err := layout.Write(lib, empty.Index)
	if err != nil {
		return nil, err
	}
	// The annotation is by which package library finds the names of what it serves.
	names := layout.WithAnnotations(map[string]string{"build.slipway.base.names": "toolset:latest"})
	if err := oci.AppendImage(img, names); err != nil {
		return nil, err
	}
	l, err := library.Open(lib)
	if err != nil {
		return nil, err
	}
	return l.Handler(), errors.Join(os.Remove(lower.path), os.Remove(upper.path))
}

// packed is a compressed layer in a file. Its methods make it a v1.Layer.
type packed struct {
	path           string
	digest, diffID v1.Hash
	size           int64
}

func (p *packed) Digest() (v1.Hash, error)            { return p.digest, nil }
func (p *packed) DiffID() (v1.Hash, error)            { return p.diffID, nil }
func (p *packed) Size() (int64, error)                { return p.size, nil }
func (p *packed) MediaType() (types.MediaType, error) { return types.OCILayer, nil }
func (p *packed) Compressed() (io.ReadCloser, error)  { return os.Open(p.path) }
func (p *packed) Uncompressed() (io.ReadCloser, error) {
	return nil, errors.New("the layer is kept compressed")
}

// counter counts what is written to it.
type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}

// fileLayer writes a layer to a file with gzip.
func fileLayer(path string, write func(*tar.Writer) error) (p *packed, err error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	plainSum, packedSum := sha256.New(), sha256.New()
	var size counter
	zw := pgzip.NewWriter(io.MultiWriter(f, packedSum, &size))
	tw := tar.NewWriter(io.MultiWriter(zw, plainSum))
	if err := errors.Join(write(tw), tw.Close(), zw.Close()); err != nil {
		return nil, err
	}
	hash := func(sum []byte) v1.Hash { return v1.Hash{Algorithm: "sha256", Hex: fmt.Sprintf("%x", sum)} }
	return &packed{path: path, digest: hash(packedSum.Sum(nil)), diffID: hash(plainSum.Sum(nil)), size: int64(size)}, nil
}

// tarDir writes a directory; name ends in a slash.
func tarDir(w *tar.Writer, name string) error {
	return w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755})
}

// tarFile writes a regular file and counts it.
func tarFile(w *tar.Writer, path, name string, stat *treeStat) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	err = w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: int64(info.Mode().Perm()), Size: info.Size(), ModTime: info.ModTime().Truncate(time.Second)})
	if err != nil {
		return err
	}
	n, err := io.Copy(w, f)
	if stat != nil {
		stat.Files++
		stat.Bytes += n
	}
	return err
}

// tarTree writes a tree of directories and regular files below prefix.
func tarTree(w *tar.Writer, dir, prefix string, stat *treeStat) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := prefix + strings.TrimPrefix(path, dir)
		if d.IsDir() {
			return tarDir(w, name+"/")
		}
		return tarFile(w, path, name, stat)
	})
}
