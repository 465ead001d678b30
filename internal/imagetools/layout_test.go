package imagetools

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/ocilayout"
	"github.com/slipway-build/slipway/internal/registry"
)

func TestParseLocation(t *testing.T) {
	d := digest.FromString("some")
	for text, want := range map[string]struct {
		name, tag string
		digest    digest.Digest
		err       string
	}{
		"app":                                        {name: "docker.io/library/app", tag: "latest"},
		"example.com/app:v1":                         {name: "example.com/app", tag: "v1"},
		"oci-layout:///a/b":                          {name: "/a/b", tag: "latest"},
		"oci-layout://a:1.3":                         {name: "a", tag: "1.3"},
		"oci-layout://a@" + d.String():               {name: "a", digest: d},
		"oci-layout://a:v1@" + d.String():            {name: "a", tag: "v1", digest: d},
		"oci-layout://a/@/b":                         {name: "a/@/b", tag: "latest"},
		"oci-layout://a@" + string(d) + "/b":         {name: "a@" + string(d) + "/b", tag: "latest"},
		"oci-layout://a:b/c":                         {name: "a:b/c", tag: "latest"},
		"oci-layout://a:b:latest@" + d.String():      {name: "a:b", tag: "latest", digest: d},
		"oci-layout://":                              {err: "want oci-layout://DIRECTORY"},
		"oci-layout://:v1":                           {err: "want oci-layout://DIRECTORY"},
		"oci-layout://a@sha256:../../../etc":         {name: "a@sha256:../../../etc", tag: "latest"},
		"oci-layout://a@sha256:" + string(d[8:70]):   {err: "invalid checksum digest length"},
		"oci-layout://a@sha256:..%2f..%2fetc%2fhost": {err: "invalid checksum digest"},
	} {
		l, err := ParseLocation(text)
		if want.err != "" || err != nil {
			if err == nil || want.err == "" || !strings.Contains(err.Error(), want.err) {
				t.Errorf("%s: %v, want %q", text, err, want.err)
			}
			continue
		}
		if l.Name() != want.name || l.Tag() != want.tag || l.Digest() != want.digest {
			t.Errorf("%s is %q, %q, %q, want %+v", text, l.Name(), l.Tag(), l.Digest(), want)
		}
		other, err := l.WithDigest(d)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := ParseLocation(other.String()); err != nil || again.Name() != want.name || again.Digest() != d {
			t.Errorf("%s with a digest is %s, which is %+v, %v", text, other, again, err)
		}
	}
}

// make makes an image and pushes it.
func (f *fixture) make(req Request) (*Image, error) {
	f.place(&req, nil)
	img, err := Create(f.t.Context(), f.client, req)
	if err != nil {
		return nil, err
	}
	for _, repo := range img.Repositories() {
		err = errors.Join(err, img.Push(f.t.Context(), f.client, repo, Events{Log: func(string) {}, Blob: func(registry.CopyEvent) {}}))
	}
	return img, err
}

// TestLayouts: an image goes from a registry into a directory and back, with what is about it, and stays the same.
func TestLayouts(t *testing.T) {
	f := newFixture(t)
	dir := ocilayout.Dir(filepath.Join(t.TempDir(), "new", "layout"))
	at := "oci-layout://" + string(dir)
	if _, err := f.make(Request{Sources: []string{"team/multi:v1"}, Tags: []string{at + ":v1", at}, PreferIndex: true}); err != nil {
		t.Fatal(err)
	}
	for _, tag := range []string{"v1", "latest"} {
		if d, err := dir.Find(tag); err != nil || d == nil || d.Digest != f.index.Digest || d.MediaType != f.index.MediaType {
			t.Errorf("%s is %+v, %v", tag, d, err)
		}
	}
	i, err := Inspect(t.Context(), f.client, at+":v1")
	if err != nil || i.Desc.Digest != f.index.Digest {
		t.Fatalf("%+v, %v", i, err)
	}
	if p, err := i.Provenance(t.Context()); err != nil || len(p) != 1 {
		t.Errorf("provenance: %v, %v", p, err)
	}
	for _, ref := range []string{at + ":v1", at + "@" + f.index.Digest.String()} {
		if _, err := f.make(Request{Sources: []string{ref}, Tags: []string{"team/back:v1"}}); err != nil {
			t.Fatal(err)
		}
		if d, _, err := f.client.Manifest(t.Context(), f.Host+"/team/back:v1"); err != nil || d.Digest != f.index.Digest {
			t.Errorf("%s came back as %+v, %v", ref, d, err)
		}
	}
	// A digest is one of the directory that the others name.
	img, err := f.make(Request{Sources: []string{f.amd64.Digest.String(), at}, Tags: []string{at + ":some"}})
	if err != nil {
		t.Fatal(err)
	}
	if d, err := dir.Find("some"); err != nil || d == nil || d.Digest != img.Desc.Digest {
		t.Errorf("got %+v, %v", d, err)
	}
	// Into another directory, by digest, twice: index.json has it once.
	other := ocilayout.Dir(filepath.Join(t.TempDir(), "other"))
	for range 2 {
		if _, err := f.make(Request{Sources: []string{at}, Tags: []string{"oci-layout://" + string(other) + "@" + f.index.Digest.String()}}); err != nil {
			t.Fatal(err)
		}
	}
	if index, err := other.Index(); err != nil || len(index.Manifests) != 1 || len(index.Manifests[0].Annotations) != 0 {
		t.Errorf("it has %+v, %v", index, err)
	}
}

// TestLayoutReferrers: what is about an image, and is named by nothing of it, goes along.
func TestLayoutReferrers(t *testing.T) {
	f := newFixture(t)
	dir := ocilayout.Dir(t.TempDir())
	at := "oci-layout://" + string(dir) + ":signed"
	img, err := f.make(Request{Sources: []string{"team/signed:v1"}, Tags: []string{at}})
	if err != nil {
		t.Fatal(err)
	}
	about, err := f.client.Referrers(t.Context(), f.Host+"/team/signed", img.Desc.Digest, attestationArtifact)
	if err != nil || len(about) != 1 {
		t.Fatal(about, err)
	}
	index, err := dir.Index()
	if err != nil || len(index.Manifests) != 2 || index.Manifests[1].Digest != about[0].Digest || index.Manifests[1].Annotations[images.AnnotationManifestSubject] != img.Desc.Digest.String() {
		t.Errorf("index.json has %+v, %v", index.Manifests, err)
	}
	if _, err := f.make(Request{Sources: []string{at}, Tags: []string{"team/again:v1"}}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := f.client.Manifest(t.Context(), f.Host+"/team/again@"+about[0].Digest.String()); err != nil {
		t.Errorf("it did not come back: %v", err)
	}
	both, err := Create(t.Context(), f.client, Request{Sources: []string{at}, PreferIndex: true})
	if err != nil || !bytes.Contains(both.Raw, []byte(about[0].Digest)) {
		t.Errorf("an index of it: %s, %v", both.Raw, err)
	}
}

// TestHostileLayouts: a directory is believed no more than a registry.
func TestHostileLayouts(t *testing.T) {
	f := newFixture(t)
	dir := ocilayout.Dir(t.TempDir())
	at := "oci-layout://" + string(dir)
	if _, err := f.make(Request{Sources: []string{"team/multi:v1"}, Tags: []string{at}, PreferIndex: true}); err != nil {
		t.Fatal(err)
	}
	none := digest.FromString("none")
	for ref, want := range map[string]func(error) bool{at + ":none": errdefs.IsNotFound, at + "@" + none.String(): errdefs.IsNotFound, at + "-none": errdefs.IsNotFound} {
		if _, err := Inspect(t.Context(), f.client, ref); !want(err) {
			t.Errorf("%s: %v", ref, err)
		}
	}
	if _, err := f.make(Request{Sources: []string{at}, Tags: []string{"oci-layout://" + t.TempDir() + "@" + none.String()}}); err == nil || !strings.Contains(err.Error(), "requested digest "+none.String()+" but produced "+f.index.Digest.String()) {
		t.Errorf("another digest than was asked for: %v", err)
	}
	// A config with other content is not copied, nor named.
	i, err := Inspect(t.Context(), f.client, at)
	if err != nil {
		t.Fatal(err)
	}
	config := configOf(t, dir, i.Index.Manifests[0])
	data, err := os.ReadFile(dir.BlobPath(config.Digest))
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range [][]byte{bytes.ToUpper(data), data[1:], append(data, ' ')} {
		if err := os.WriteFile(dir.BlobPath(config.Digest), bad, 0o600); err != nil {
			t.Fatal(err)
		}
		to := ocilayout.Dir(t.TempDir())
		if _, err := f.make(Request{Sources: []string{at}, Tags: []string{"oci-layout://" + string(to)}}); !errdefs.IsDataLoss(err) || to.Has(config) {
			t.Errorf("a damaged config: %v", err)
		}
		if _, err := os.Stat(filepath.Join(string(to), ocispec.ImageIndexFile)); err == nil {
			t.Error("a damaged image has a name")
		}
	}
	// Indexes that name one another over and over, pipes, and what is no digest.
	path := filepath.Join(string(dir), ocispec.ImageIndexFile)
	deep := ocispec.Index{Versioned: versioned, MediaType: ocispec.MediaTypeImageIndex}
	for range 8 {
		raw := f.json(deep)
		d := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromBytes(raw), Size: int64(len(raw)), Annotations: map[string]string{ocispec.AnnotationRefName: "deep"}}
		if err := dir.Put(t.Context(), d, func(context.Context) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(raw)), nil }); err != nil {
			t.Fatal(err)
		}
		deep.Manifests = []ocispec.Descriptor{d}
	}
	if err := os.WriteFile(path, f.json(deep), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := newPlaces(f.client).Referrers(t.Context(), at, none, attestationArtifact); !errdefs.IsOutOfRange(err) {
		t.Errorf("indexes in indexes: %v", err)
	}
	if err := os.WriteFile(path, []byte(`{"manifests":[{"digest":"sha256:../../../../etc/passwd","annotations":{"org.opencontainers.image.ref.name":"latest"}}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Inspect(t.Context(), f.client, at); err == nil || !strings.Contains(err.Error(), "digest") {
		t.Errorf("a path for a digest: %v", err)
	}
	if err := errors.Join(os.Remove(path), unix.Mkfifo(path, 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := Inspect(t.Context(), f.client, at); err == nil || !strings.Contains(err.Error(), "no regular file") {
		t.Errorf("a pipe for an index: %v", err)
	}
	if err := dir.Enter(f.index, "v1", nil); err == nil || !strings.Contains(err.Error(), "no regular file") {
		t.Errorf("a pipe to be written to: %v", err)
	}
}

// configOf is the config that a manifest in a layout names.
func configOf(t *testing.T, dir ocilayout.Dir, manifest ocispec.Descriptor) ocispec.Descriptor {
	t.Helper()
	raw, err := os.ReadFile(dir.BlobPath(manifest.Digest))
	if err != nil {
		t.Fatal(err)
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		t.Fatal(err)
	}
	return m.Config
}
