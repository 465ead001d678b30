package conformance

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"archive/tar"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Record is what a builder made of a Dockerfile.
type Record struct {
	Error    string   `json:"error,omitempty"`
	Excerpt  []string `json:"excerpt,omitempty"`  // of the Dockerfile, as shown with the error
	Warnings []string `json:"warnings,omitempty"` // of the linter
	Steps    []string `json:"steps,omitempty"`    // the names of the steps that the target needs, sorted
	Layout   any      `json:"layout,omitempty"`   // index.json, where the case is about that
	Index    any      `json:"index,omitempty"`    // of an image for several platforms
	Images   []Image  `json:"images,omitempty"`
	Files    []string `json:"files,omitempty"` // of an output that is no image
	Again    []string `json:"again,omitempty"` // what was cached when it was built again, between the commands
}

// Image is one image of a Record.
type Image struct {
	Manifest map[string]any `json:"manifest"` // without digests and sizes
	Config   map[string]any `json:"config"`   // without diff IDs; dates only that of the base image
	Layers   [][]string     `json:"layers"`   // entries, sorted; of a base image's layer only that it is one
}

// recent divides the times that cases and base images give from those of the build itself.
var recent = time.Date(2024, time.June, 1, 0, 0, 0, 0, time.UTC)

// archive is an OCI image layout.
type archive struct {
	blobs  map[string][]byte // by digest
	layout []byte            // index.json
	index  ocispec.Index
	bases  map[string]bool
}

// ReadOCI makes a Record's images of an OCI archive.
// layout: index.json is a part of it.
func (r *Record) ReadOCI(file string, layout bool, bases map[string]bool) error {
	a := &archive{blobs: map[string][]byte{}, bases: bases}
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	for tr := tar.NewReader(f); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		data, err := io.ReadAll(tr)
		if err != nil {
			return err
		}
		switch dir, base := path.Split(path.Clean(h.Name)); {
		case dir == "blobs/sha256/" && h.Typeflag == tar.TypeReg:
			a.blobs["sha256:"+base] = data
		case h.Name == "index.json":
			a.layout = data
			if err := json.Unmarshal(data, &a.index); err != nil {
				return err
			}
		}
	}
	if layout {
		plain, err := generic(a.layout)
		if err != nil {
			return err
		}
		r.Layout = scrub(plain, nil)
	}
	if len(a.index.Manifests) == 0 {
		return errors.New("index.json has no manifest")
	}
	top := a.index.Manifests[0]
	for _, m := range a.index.Manifests { // one for each name
		if m.Digest != top.Digest {
			return fmt.Errorf("index.json has the manifests %s and %s, want one", top.Digest, m.Digest)
		}
	}
	if top.MediaType == ocispec.MediaTypeImageManifest {
		return r.addImage(a, top)
	}
	return r.addIndex(a, top)
}

func (r *Record) addIndex(a *archive, top ocispec.Descriptor) error {
	var index ocispec.Index
	if err := json.Unmarshal(a.blobs[top.Digest.String()], &index); err != nil {
		return fmt.Errorf("reading %s: %w", top.MediaType, err)
	}
	plain, err := generic(a.blobs[top.Digest.String()])
	if err != nil {
		return err
	}
	numbers := map[string]string{}
	for i, m := range index.Manifests {
		numbers[m.Digest.String()] = fmt.Sprintf("manifest %d", i)
	}
	r.Index = scrub(plain, numbers)
	for _, m := range index.Manifests {
		if err := r.addImage(a, m); err != nil {
			return err
		}
	}
	return nil
}

func (r *Record) addImage(a *archive, desc ocispec.Descriptor) error {
	var m ocispec.Manifest
	raw := a.blobs[desc.Digest.String()]
	if err := json.Unmarshal(raw, &m); err != nil {
		return fmt.Errorf("reading manifest: %w", err)
	}
	var config ocispec.Image
	rawConfig := a.blobs[m.Config.Digest.String()]
	if err := json.Unmarshal(rawConfig, &config); err != nil {
		return fmt.Errorf("reading configuration: %w", err)
	}
	if m.Config.MediaType == ocispec.MediaTypeEmptyJSON { // an artifact, which has no diff IDs
		config.RootFS.DiffIDs = make([]digest.Digest, len(m.Layers))
	}
	if len(config.RootFS.DiffIDs) != len(m.Layers) {
		return fmt.Errorf("%d diff IDs for %d layers", len(config.RootFS.DiffIDs), len(m.Layers))
	}
	img := Image{Layers: [][]string{}}
	below := tree{}
	for i, l := range m.Layers {
		entries, err := a.layer(l, config.RootFS.DiffIDs[i], below)
		if err != nil {
			return fmt.Errorf("reading layer %d: %w", i, err)
		}
		if a.bases[config.RootFS.DiffIDs[i].String()] {
			entries = []string{"of a base image"}
		}
		img.Layers = append(img.Layers, entries)
	}
	plain, err := generic(raw)
	if err != nil {
		return err
	}
	img.Manifest = scrub(plain, nil).(map[string]any)
	if plain, err = generic(rawConfig); err != nil {
		return err
	}
	img.Config = plain.(map[string]any)
	if fs, ok := img.Config["rootfs"].(map[string]any); ok {
		delete(fs, "diff_ids")
	}
	scrubDates(img.Config)
	r.Images = append(r.Images, img)
	return nil
}

func generic(raw []byte) (v any, err error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	return v, d.Decode(&v)
}

// scrub replaces digests and drops sizes.
func scrub(v any, digests map[string]string) any {
	switch v := v.(type) {
	case map[string]any:
		for k, x := range v {
			if k == "size" || k == "digestMapping" { // which is sorted by digest
				delete(v, k)
				continue
			}
			v[k] = scrub(x, digests)
		}
	case string:
		switch d := digests[v]; {
		case d != "":
			return d
		case strings.HasPrefix(v, "sha256:"):
			return "sha256:..."
		}
		return date(v)
	case []any:
		for i := range v {
			v[i] = scrub(v[i], digests)
		}
	}
	return v
}

// scrubDates replaces the dates of the build.
func scrubDates(v any) {
	switch v := v.(type) {
	case map[string]any:
		for k, x := range v {
			if s, ok := x.(string); ok && k == "created" {
				v[k] = date(s)
				continue
			}
			scrubDates(x)
		}
	case []any:
		for _, x := range v {
			scrubDates(x)
		}
	}
}

func date(s string) string {
	if t, err := time.Parse(time.RFC3339Nano, s); err != nil || t.Before(recent) {
		return s
	}
	return "now"
}

// layer lists the entries of a layer.
func (a *archive) layer(desc ocispec.Descriptor, diffID digest.Digest, below tree) ([]string, error) {
	data, ok := a.blobs[desc.Digest.String()]
	if !ok || digest.FromBytes(data) != desc.Digest || int64(len(data)) != desc.Size {
		return nil, fmt.Errorf("blob %s is missing or has another digest or size", desc.Digest)
	}
	if desc.MediaType == "application/vnd.in-toto+json" {
		return statement(data)
	}
	plain, err := decompress(data, desc.MediaType)
	if err != nil {
		return nil, err
	}
	if digest.FromBytes(plain) != diffID {
		return nil, fmt.Errorf("diff ID is %s, want %s", digest.FromBytes(plain), diffID)
	}
	return entries(bytes.NewReader(plain), below)
}

var (
	hexDigest = regexp.MustCompile(`[0-9a-f]{64}|[0-9a-z]{25}|\d{8}-\d{6}\.\d{6}-[0-9a-f]{8}`)
	hostPath  = regexp.MustCompile(`/dev/shm/\S*/`)
)

// statement is the lines of an attestation, without digests, dates and names made up.
func statement(data []byte) ([]string, error) {
	v, err := generic(data)
	if err != nil {
		return nil, err
	}
	out, err := json.MarshalIndent(scrub(v, nil), "", "  ")
	text := hexDigest.ReplaceAllString(string(out), "...")
	text = hostPath.ReplaceAllString(text, "/")
	return strings.Split(text, "\n"), err
}

// entries lists a tar stream, sorted by path; the names of one file stand with the first of them. An
// opaque directory is shown as what it removes of the layers below.
func entries(r io.Reader, below tree) ([]string, error) {
	lines := map[string]string{}
	first := map[string]string{} // of the names of a file, by each name as the stream has it
	names := map[string][]string{}
	var opaque []string
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		name := path.Clean("/" + h.Name)
		if _, twice := lines[name]; twice {
			return nil, fmt.Errorf("%s comes twice", name)
		}
		if h.Typeflag == tar.TypeLink {
			target := path.Clean("/" + h.Linkname)
			if first[target] != "" {
				target = first[target]
			}
			if _, there := lines[target]; !there {
				return nil, fmt.Errorf("%s is a link to %s, which did not come before", name, target)
			}
			first[name] = target
			names[target] = append(names[target], name)
			lines[name] = ""
			continue
		}
		content, err := io.ReadAll(tr)
		if err != nil {
			return nil, err
		}
		if path.Base(name) == ".wh..wh..opq" {
			opaque = append(opaque, path.Dir(name))
			continue
		}
		if base, ok := strings.CutPrefix(path.Base(name), ".wh."); ok {
			name = path.Join(path.Dir(name), base)
			lines[name] = "whiteout " + name
			continue
		}
		lines[name] = entry(h, name, content)
	}
	for _, dir := range opaque {
		below.hide(dir, lines)
	}
	for target, others := range names {
		all := append(slices.Clone(others), target)
		slices.Sort(all)
		line := lines[target]
		for _, n := range all[1:] {
			lines[n] = "hard link " + n + " to " + all[0]
		}
		lines[all[0]] = strings.Replace(line, " "+target+" ", " "+all[0]+" ", 1)
	}
	below.add(lines)
	out := []string{}
	for _, n := range slices.Sorted(func(yield func(string) bool) {
		for n := range lines {
			if !yield(n) {
				return
			}
		}
	}) {
		out = append(out, lines[n])
	}
	return out, nil
}

// entry is one line about an entry.
func entry(h *tar.Header, name string, content []byte) string {
	kinds := map[byte]string{tar.TypeReg: "file", tar.TypeDir: "dir", tar.TypeSymlink: "symlink", tar.TypeFifo: "fifo", tar.TypeChar: "char", tar.TypeBlock: "block"}
	kind := kinds[h.Typeflag]
	if kind == "" {
		kind = fmt.Sprintf("type %q", h.Typeflag)
	}
	s := fmt.Sprintf("%s %04o %d:%d %s ", kind, h.Mode, h.Uid, h.Gid, name)
	switch h.Typeflag {
	case tar.TypeReg:
		s += text(content)
	case tar.TypeSymlink:
		s += "-> " + h.Linkname
	case tar.TypeChar, tar.TypeBlock:
		s += fmt.Sprintf("%d %d", h.Devmajor, h.Devminor)
	}
	s = strings.TrimSpace(s) + " at " + date(h.ModTime.UTC().Format(time.RFC3339Nano))
	var attrs []string
	for k, v := range h.PAXRecords {
		if name, ok := strings.CutPrefix(k, "SCHILY.xattr."); ok {
			attrs = append(attrs, fmt.Sprintf("%s=%q", name, v))
		}
	}
	slices.Sort(attrs)
	return strings.Join(append([]string{s}, attrs...), " ")
}

// text shows short contents and digests others.
func text(content []byte) string {
	if len(content) <= 1500 && !bytes.ContainsFunc(content, func(r rune) bool { return r == 0xfffd || (r < ' ' && r != '\n' && r != '\t') }) {
		return fmt.Sprintf("%q", content)
	}
	return fmt.Sprintf("%d %s", len(content), digest.FromBytes(content))
}

// ReadTar makes a Record's files of the tar of an output.
func (r *Record) ReadTar(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	r.Files, err = entries(f, tree{})
	return err
}

// ReadDir makes a Record's files of an output that is a directory.
func (r *Record) ReadDir(dir string) error {
	r.Files = []string{}
	return filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		link, content := "", []byte(nil)
		switch {
		case fi.Mode().IsRegular():
			if content, err = os.ReadFile(p); err != nil {
				return err
			}
		case fi.Mode()&fs.ModeSymlink != 0:
			if link, err = os.Readlink(p); err != nil {
				return err
			}
		}
		h, err := tar.FileInfoHeader(fi, link)
		if err != nil {
			return err
		}
		r.Files = append(r.Files, entry(h, strings.TrimPrefix(p, dir), content))
		return nil
	})
}

// JSON is how a Record is kept.
func (r *Record) JSON() string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(r); err != nil {
		panic(err) // there is nothing in it that JSON has not
	}
	return b.String()
}
