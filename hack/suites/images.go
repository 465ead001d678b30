package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/slipway-build/slipway/hack/bases/baseimage"
)

// images are those that the suites name, by the names that they have in a registry.
func images() (map[string]v1.Image, error) {
	busybox, err := baseimage.Busybox()
	if err != nil {
		return nil, err
	}
	alpine, err := alpine(busybox)
	if err != nil {
		return nil, fmt.Errorf("making alpine: %w", err)
	}
	none := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.DockerManifestSchema2), types.DockerConfigJSON)
	none, err = mutate.Config(none, v1.Config{Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}})
	if err != nil {
		return nil, err
	}
	return map[string]v1.Image{
		"library/busybox:latest":              busybox,
		"library/busybox:stable-musl":         busybox,
		"library/busybox_amd64:latest":        busybox,
		"library/alpine:latest":               alpine,
		"amd64/debian:bullseye-20230109-slim": alpine,
		"cpuguy83/buildkit-foreign:latest":    busybox,
		"tonistiigi/test:nolayers":            none,
	}, nil
}

// alpineFiles are what the suites know alpine by. Packages cannot be had.
var alpineFiles = []struct {
	name, text string
	mode       int64
}{
	{"etc/alpine-release", "3.18.12\n", 0o644},
	{"etc/os-release", "NAME=\"Alpine Linux\"\nID=alpine\nVERSION_ID=3.18.12\n", 0o644},
	{"sbin/apk", "#!/bin/sh\necho 'apk: this is a stand-in, which has no packages' >&2\nexit 1\n", 0o755},
}

// alpine is busybox' image with them, in one layer as well.
func alpine(busybox v1.Image) (v1.Image, error) {
	layers, err := busybox.Layers()
	if err != nil || len(layers) != 1 {
		return nil, errors.Join(err, fmt.Errorf("busybox has %d layers", len(layers)))
	}
	r, err := layers[0].Uncompressed()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	var b bytes.Buffer
	tr, tw := tar.NewReader(r), tar.NewWriter(&b)
	h, err := tr.Next()
	for ; err == nil; h, err = tr.Next() {
		if err := tw.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := io.Copy(tw, tr); err != nil {
			return nil, err
		}
	}
	if !errors.Is(err, io.EOF) {
		return nil, err
	}
	config, err := busybox.ConfigFile()
	if err != nil {
		return nil, err
	}
	for _, f := range alpineFiles {
		if err := tw.WriteHeader(&tar.Header{Name: f.name, Mode: f.mode, Size: int64(len(f.text)), ModTime: config.Created.Time}); err != nil {
			return nil, err
		}
		if _, err := io.WriteString(tw, f.text); err != nil {
			return nil, err
		}
	}
	if err := tw.Close(); err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
	if err != nil {
		return nil, err
	}
	img, err := mutate.Append(empty.Image, mutate.Addendum{Layer: layer, History: v1.History{Created: config.Created, CreatedBy: "ADD alpine.tar.gz / # buildkit"}})
	if err != nil {
		return nil, err
	}
	file, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.Architecture, file.OS, file.Created, file.Config = config.Architecture, config.OS, config.Created, config.Config
	return mutate.ConfigFile(img, file)
}
