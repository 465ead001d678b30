package control

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/klauspost/compress/gzip"
	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/build"
	"github.com/slipway-build/slipway/internal/store"
)

// A bundle is records of builds in the form that `buildx history export` writes, and that Docker Desktop and GitHub's build summaries
// read: a compressed archive of an OCI layout. A record is a manifest, whose config is the record as BuildKit's API has it, and whose
// layers are what that names. What slipway itself has in a record are further layers, which others pass over: files with their names.
const (
	typeRecord = "application/vnd.buildkit.historyrecord.v0"
	typeFile   = "application/vnd.slipway.build.file.v1"

	annotationRef  = "vnd.buildkit.history.reference"
	annotationType = "vnd.export-build.descriptor.mediatype" // of what must not be taken for a part of an image
)

// bundleRecord is the config of a record.
type bundleRecord struct {
	*controlapi.BuildHistoryRecord

	DefaultPlatform string
}

// bundle is one that is being written.
type bundle struct {
	tar *tar.Writer
	has map[digest.Digest]bool
}

// WriteBundle writes records of builds that have ended, by the names of their directories.
func WriteBundle(w io.Writer, st *store.Store, names []string) error {
	zip := gzip.NewWriter(w)
	b := &bundle{tar: tar.NewWriter(zip), has: map[digest.Digest]bool{}}
	err := b.write(st, names)
	if err == nil {
		err = errors.Join(b.tar.Close(), zip.Close())
	}
	if err != nil {
		return fmt.Errorf("exporting records of builds: %w", err)
	}
	return nil
}

func (b *bundle) write(st *store.Store, names []string) error {
	if err := b.file(ocispec.ImageLayoutFile, []byte(`{"imageLayoutVersion":"`+ocispec.ImageLayoutVersion+`"}`)); err != nil {
		return err
	}
	h := newHistory()
	defer h.asked.Stop()
	h.builds = filepath.Join(st.Root(), "builds")
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	for _, name := range names {
		k, _, err := h.one(st, name)
		if err == nil && (k == nil || k.running) {
			err = fmt.Errorf("build %s runs, or is gone", name)
		}
		if err != nil {
			return err
		}
		desc, err := b.record(k)
		if err != nil {
			return fmt.Errorf("build %s: %w", name, err)
		}
		if len(names) > 1 {
			desc.Annotations = map[string]string{annotationRef: k.rec.Ref}
		}
		index.Manifests = append(index.Manifests, desc)
	}
	if len(names) > 1 {
		desc, err := b.document(ocispec.MediaTypeImageIndex, &index)
		if err != nil {
			return err
		}
		index.Manifests = []ocispec.Descriptor{desc}
	}
	data, err := json.Marshal(&index)
	if err != nil {
		return err
	}
	return b.file(ocispec.ImageIndexFile, data)
}

// record writes a record with all that it names, as far as that is there.
func (b *bundle) record(k *kept) (desc ocispec.Descriptor, err error) {
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Layers: []ocispec.Descriptor{}}
	m.Config, err = b.document(typeRecord, &bundleRecord{k.rec, platforms.FormatAll(platforms.DefaultSpec())})
	if err != nil {
		return desc, err
	}
	told := map[digest.Digest]bool{}
	for _, d := range partsOf(k.rec) {
		if told[d.Digest] {
			continue
		}
		told[d.Digest] = true
		f, err := k.open(d.Digest)
		if cerrdefs.IsNotFound(err) {
			continue
		}
		if err == nil {
			d, err = b.blob(f, d)
		}
		if err != nil {
			return desc, err
		}
		m.Layers = append(m.Layers, d)
	}
	entries, err := os.ReadDir(k.dir)
	if err != nil {
		return desc, err
	}
	for _, e := range entries {
		if !build.IsRecordFile(e.Name()) {
			continue
		}
		f, err := openKept(filepath.Join(k.dir, e.Name()))
		if err != nil {
			return desc, err
		}
		d, err := b.blob(f, ocispec.Descriptor{MediaType: typeFile, Annotations: map[string]string{ocispec.AnnotationTitle: e.Name()}})
		if err != nil {
			return desc, err
		}
		m.Layers = append(m.Layers, d)
	}
	return b.document(m.MediaType, &m)
}

// partsOf describes what a record names: its trace, its log, what came of it, and its error.
func partsOf(r *controlapi.BuildHistoryRecord) (all []ocispec.Descriptor) {
	add := func(d *controlapi.Descriptor) {
		if d != nil {
			all = append(all, ocispec.Descriptor{MediaType: d.MediaType, Digest: digest.Digest(d.Digest), Size: d.Size, Annotations: maps.Clone(d.Annotations)})
		}
	}
	result := func(res *controlapi.BuildResultInfo) {
		for _, d := range res.GetAttestations() {
			add(d)
		}
		results := res.GetResults()
		for _, i := range slices.Sorted(maps.Keys(results)) {
			if results[i] == nil {
				continue
			}
			add(results[i])
			last := &all[len(all)-1]
			if last.Annotations == nil {
				last.Annotations = map[string]string{}
			}
			last.Annotations[annotationType], last.MediaType = last.MediaType, "application/json"
		}
	}
	add(r.Trace)
	add(r.Logs)
	result(r.Result)
	add(r.ExternalError)
	for _, platform := range slices.Sorted(maps.Keys(r.Results)) {
		result(r.Results[platform])
	}
	return all
}

// document writes a blob of JSON.
func (b *bundle) document(mediaType string, v any) (ocispec.Descriptor, error) {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	if b.has[desc.Digest] {
		return desc, nil
	}
	b.has[desc.Digest] = true
	return desc, b.file(blobName(desc.Digest), data)
}

// blob writes a file, which it closes, as a blob. One whose digest is known must have it.
func (b *bundle) blob(f *os.File, desc ocispec.Descriptor) (ocispec.Descriptor, error) {
	defer f.Close()
	sum := sha256.New()
	size, err := io.Copy(sum, f)
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		return desc, err
	}
	got := digest.NewDigest(digest.SHA256, sum)
	if desc.Digest != "" && (desc.Digest != got || desc.Size != size) {
		return desc, fmt.Errorf("it is damaged: %s is %s", desc.Digest, got)
	}
	if desc.Digest, desc.Size = got, size; b.has[got] {
		return desc, nil
	}
	b.has[got] = true
	return desc, b.copy(blobName(got), size, f)
}

func blobName(d digest.Digest) string {
	return ocispec.ImageBlobsDir + "/" + d.Algorithm().String() + "/" + d.Encoded()
}

func (b *bundle) file(name string, data []byte) error {
	return b.copy(name, int64(len(data)), bytes.NewReader(data))
}

func (b *bundle) copy(name string, size int64, r io.Reader) error {
	if err := b.tar.WriteHeader(&tar.Header{Name: name, Mode: 0o444, Size: size, Typeflag: tar.TypeReg}); err != nil {
		return err
	}
	_, err := io.CopyN(b.tar, r, size)
	return err
}
