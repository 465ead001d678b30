package registrytest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Layer is the files of a layer by path, without a leading slash. A path that ends in "/" is
// a directory, content that begins with "-> " is a symbolic link, and files below a bin
// directory are executable. Parents are made as needed.
type Layer map[string]string

// Image says what image to make. Its zero value is an image without layers for linux/amd64.
type Image struct {
	Layers   []Layer
	Config   ocispec.ImageConfig
	Platform ocispec.Platform // zero: linux/amd64
	Docker   bool             // Docker's media types in place of OCI's
	// DiffIDs, unless nil, are what the config says of the layers, in place of what is true.
	DiffIDs []digest.Digest
}

// Pushed is an image as the registry has it.
type Pushed struct {
	Desc     ocispec.Descriptor
	Manifest ocispec.Manifest
	Config   []byte
}

// PushImage makes an image of layers and pushes it. ref is "name", "name:tag"; the name is
// what follows the host in a reference ("library/alpine"). It panics when that fails, for
// then the test is wrong.
func (r *Registry) PushImage(ref string, img Image) Pushed {
	repo, tag := split(ref)
	config := ocispec.Image{Config: img.Config, Platform: img.Platform}
	if config.OS == "" {
		config.Platform = ocispec.Platform{OS: "linux", Architecture: "amd64"}
	}
	config.RootFS.Type = "layers"
	config.RootFS.DiffIDs = []digest.Digest{}
	manifestType, configType, layerType := ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageConfig, ocispec.MediaTypeImageLayerGzip
	if img.Docker {
		const docker = "application/vnd.docker."
		manifestType, configType, layerType = docker+"distribution.manifest.v2+json", docker+"container.image.v1+json", docker+"image.rootfs.diff.tar.gzip"
	}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: manifestType, Layers: []ocispec.Descriptor{}}
	for _, l := range img.Layers {
		plain := l.Tar()
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.FromBytes(plain))
		config.History = append(config.History, ocispec.History{CreatedBy: "registrytest"})
		m.Layers = append(m.Layers, r.PushBlob(repo, layerType, zip(plain)))
	}
	if img.DiffIDs != nil {
		config.RootFS.DiffIDs = img.DiffIDs
	}
	raw := mustJSON(config)
	m.Config = r.PushBlob(repo, configType, raw)
	desc := r.PushManifest(repo, tag, manifestType, mustJSON(m))
	desc.Platform = &config.Platform
	return Pushed{Desc: desc, Manifest: m, Config: raw}
}

// PushIndex makes an image of each of images and pushes an index of them.
func (r *Registry) PushIndex(ref string, images ...Image) (ocispec.Descriptor, []Pushed) {
	repo, tag := split(ref)
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	var pushed []Pushed
	for _, img := range images {
		if img.Docker {
			index.MediaType = "application/vnd.docker.distribution.manifest.list.v2+json"
		}
		p := r.PushImage(repo, img)
		pushed = append(pushed, p)
		index.Manifests = append(index.Manifests, p.Desc)
	}
	return r.PushManifest(repo, tag, index.MediaType, mustJSON(index)), pushed
}

// PushBlob stores a blob and returns its descriptor.
func (r *Registry) PushBlob(repo, mediaType string, content []byte) ocispec.Descriptor {
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(content), Size: int64(len(content))}
	r.push(http.MethodPost, "/v2/"+repo+"/blobs/uploads/?digest="+desc.Digest.String(), "", content)
	return desc
}

// PushManifest stores a manifest, as it is given, under its digest and the tag.
func (r *Registry) PushManifest(repo, tag, mediaType string, content []byte) ocispec.Descriptor {
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(content), Size: int64(len(content))}
	if tag == "" {
		tag = desc.Digest.String()
	}
	r.push(http.MethodPut, "/v2/"+repo+"/manifests/"+tag, mediaType, content)
	return desc
}

func (r *Registry) push(method, target, mediaType string, content []byte) {
	req := httptest.NewRequest(method, target, bytes.NewReader(content))
	req.Header.Set("Content-Type", mediaType)
	rec := httptest.NewRecorder()
	r.content.ServeHTTP(rec, req)
	if rec.Code != http.StatusCreated {
		panic(fmt.Sprintf("registrytest: %s %s: %d %s", method, target, rec.Code, rec.Body))
	}
}

// split parts "name:tag"; the tag is "latest" by default.
func split(ref string) (repo, tag string) {
	repo, tag, ok := strings.Cut(ref, ":")
	if !ok {
		tag = "latest"
	}
	return repo, tag
}

// Tar returns the layer as an uncompressed tar, always the same bytes.
func (l Layer) Tar() []byte {
	entries := map[string]string{}
	for name, content := range l {
		entries[name] = content
		for dir := path.Dir(strings.TrimSuffix(name, "/")); dir != "."; dir = path.Dir(dir) {
			entries[dir+"/"] = ""
		}
	}
	names := make([]string, 0, len(entries))
	for name := range entries {
		names = append(names, name)
	}
	slices.Sort(names) // a directory, ending in "/", comes before what is in it

	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, name := range names {
		content := entries[name]
		h := &tar.Header{Name: name, Mode: 0o644, Typeflag: tar.TypeReg}
		link, isLink := strings.CutPrefix(content, "-> ")
		switch {
		case strings.HasSuffix(name, "/"):
			h.Typeflag, h.Mode, content = tar.TypeDir, 0o755, ""
		case isLink:
			h.Typeflag, h.Mode, h.Linkname, content = tar.TypeSymlink, 0o777, link, ""
		case path.Base(path.Dir(name)) == "bin":
			h.Mode = 0o755
		}
		h.Size = int64(len(content))
		must(w.WriteHeader(h))
		_, err := w.Write([]byte(content))
		must(err)
	}
	must(w.Close())
	return buf.Bytes()
}

func zip(plain []byte) []byte {
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	_, err := w.Write(plain)
	must(err)
	must(w.Close())
	return buf.Bytes()
}

func mustJSON(v any) []byte {
	raw, err := json.Marshal(v)
	must(err)
	return raw
}

func must(err error) {
	if err != nil {
		panic("registrytest: " + err.Error())
	}
}
