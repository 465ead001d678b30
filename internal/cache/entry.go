package cache

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/internal/layer"
)

// The types of caches.
const (
	TypeRegistry = "registry"
	TypeLocal    = "local"
	TypeInline   = "inline"
)

// Entry is a value of --cache-to or --cache-from: "type=TYPE,KEY=VALUE,...".
type Entry struct {
	Type  string
	Attrs map[string]string
}

// To says where a cache is exported to, and how.
type To struct {
	Type string
	Ref  string // of a registry, normalised
	Dest string // a directory
	Tag  string // in the directory's index
	// Max exports all results of the build, not only what the result's layers stand on.
	Max      bool
	Encoding layer.Encoding
	// ImageManifest lists the layers in an image manifest, otherwise in an index. DockerTypes gives
	// index and layers Docker's media types.
	ImageManifest, DockerTypes bool
	// IgnoreError lets the build succeed when the export fails.
	IgnoreError bool
	// Reset deletes the blobs of a directory that no cache in it has.
	Reset bool
	// Insecure lets a registry have any certificate, or none.
	Insecure bool
}

// From says what to import a cache from: a repository, or a directory.
type From struct {
	Type   string
	Ref    string
	Src    string
	Tag    string
	Digest digest.Digest // takes precedence over the tag
	// Insecure lets a registry have any certificate, or none.
	Insecure bool
}

// Name is how messages call it, as BuildKit does.
func (f *From) Name() string {
	if f.Type == TypeRegistry {
		return f.Ref
	}
	return f.Type + ":" + f.Src
}

// where is what [Import.Origin] tells.
func (f *From) where() string {
	src := f.Src
	if abs, err := filepath.Abs(src); err == nil && src != "" {
		src = abs
	}
	return fmt.Sprintf("%s %q %q %q %q %t", f.Type, f.Ref, src, f.Tag, f.Digest, f.Insecure)
}

// elsewhere are the types that BuildKit has and that are not there.
var elsewhere = map[string]string{
	"gha":    "use type=registry, or type=local with the actions/cache action around the build",
	"s3":     "use type=registry, or type=local and copy the directory to and from the bucket",
	"azblob": "use type=registry, or type=local and copy the directory to and from the container",
}

// errType is the error for a type that is not there; what is "exporter" or "importer".
func errType(what, kind string) error {
	if advice, ok := elsewhere[kind]; ok {
		return fmt.Errorf("cache %s %q is not supported: %s", what, kind, advice)
	}
	return fmt.Errorf("unknown cache %s: %q (want registry, local or inline)", what, kind)
}

// ParseTo reads where to export to. Attributes that it does not know are left alone, as are values
// of mode and ignore-error that BuildKit skips.
func ParseTo(e Entry) (*To, error) {
	t := &To{Type: e.Type, Max: e.Attrs["mode"] == "max"}
	t.IgnoreError, _ = strconv.ParseBool(e.Attrs["ignore-error"])
	var err error
	switch e.Type {
	case TypeInline:
		return t, nil
	case TypeRegistry:
		if t.Ref, err = parseRef(e.Attrs["ref"], "exporter"); err == nil {
			t.Insecure, err = e.insecure()
		}
		if err != nil {
			return nil, err
		}
	case TypeLocal:
		if t.Dest = e.Attrs["dest"]; t.Dest == "" {
			return nil, errors.New("local cache exporter requires dest")
		}
		t.Tag = tag(e.Attrs)
	default:
		return nil, errType("exporter", e.Type)
	}
	if err := t.parseForm(e.Attrs); err != nil {
		return nil, err
	}
	return t, nil
}

// parseForm reads the attributes that decide what is written.
func (t *To) parseForm(attrs map[string]string) error {
	oci, manifest := true, true
	for _, b := range []struct {
		name, empty string
		to          *bool
	}{
		{"oci-mediatypes", "", &oci}, {"image-manifest", "", &manifest}, {"reset", "", &t.Reset},
		{"force-compression", "true", &t.Encoding.Force},
	} {
		v, ok := attrs[b.name]
		if !ok {
			continue
		}
		if v == "" && b.empty != "" {
			v = b.empty
		}
		var err error
		if *b.to, err = strconv.ParseBool(v); err != nil {
			return fmt.Errorf("failed to parse %s: %w", b.name, err)
		}
	}
	if _, given := attrs["image-manifest"]; !given && !oci {
		manifest = false
	}
	if manifest && !oci {
		return errors.New("invalid configuration for remote cache, OCI mediatypes are required for image-manifest cache format")
	}
	t.ImageManifest, t.DockerTypes = manifest, !oci
	return t.parseEncoding(attrs)
}

func (t *To) parseEncoding(attrs map[string]string) error {
	t.Encoding.Compression = layer.Gzip
	switch v, given := attrs["compression"]; {
	case !given:
	case v == "gzip", v == "zstd":
		t.Encoding.Compression = layer.Compression(v)
	case v == "uncompressed":
		t.Encoding.Compression = layer.Uncompressed
	default:
		return fmt.Errorf("unsupported compression type %s (want gzip, zstd or uncompressed)", v)
	}
	if v, ok := attrs["compression-level"]; ok {
		n, err := strconv.Atoi(v)
		if err != nil {
			return fmt.Errorf("non-integer value %s specified for compression-level: %w", v, err)
		}
		t.Encoding.Level = n
	}
	return t.Encoding.Check()
}

// ParseFrom reads what to import.
func ParseFrom(e Entry) (*From, error) {
	f := &From{Type: e.Type}
	var err error
	switch e.Type {
	case TypeRegistry:
		if f.Ref, err = parseRef(e.Attrs["ref"], "importer"); err == nil {
			f.Insecure, err = e.insecure()
		}
	case TypeLocal:
		if f.Src = e.Attrs["src"]; f.Src == "" {
			return nil, errors.New("local cache importer requires src")
		}
		f.Tag = tag(e.Attrs)
		if v := e.Attrs["digest"]; v != "" {
			f.Digest, err = digest.Parse(v)
		}
		if err == nil && f.Tag == "" && f.Digest == "" {
			err = errors.New("local cache importer requires either explicit digest, \"latest\" tag or custom tag on index.json")
		}
	case TypeInline:
		err = errors.New("unknown cache importer: inline (name the image that has the cache: --cache-from IMAGE)")
	default:
		err = errType("importer", e.Type)
	}
	if err != nil {
		return nil, err
	}
	return f, nil
}

func (e Entry) insecure() (bool, error) {
	v, ok := e.Attrs["registry.insecure"]
	if !ok {
		return false, nil
	}
	b, err := strconv.ParseBool(v)
	if err != nil {
		return false, fmt.Errorf("failed to parse registry.insecure: %w", err)
	}
	return b, nil
}

func tag(attrs map[string]string) string {
	if t, ok := attrs["tag"]; ok {
		return t
	}
	return "latest"
}

func parseRef(ref, what string) (string, error) {
	if ref == "" {
		return "", fmt.Errorf("registry cache %s requires ref", what)
	}
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return "", fmt.Errorf("failed to configure registry cache %s: %w", what, err)
	}
	return reference.TagNameOnly(named).String(), nil
}

// ParseTos reads all values of --cache-to. Naming the same place twice is an error; inline caches
// are one.
func ParseTos(entries []Entry) ([]*To, error) {
	var all []*To
	seen := map[string]bool{}
	var twice []string
	for _, e := range entries {
		key := e.key()
		if seen[key] && e.Type != TypeInline {
			twice = append(twice, e.Type)
		}
		if seen[key] {
			continue
		}
		seen[key] = true
		t, err := ParseTo(e)
		if err != nil {
			return nil, err
		}
		all = append(all, t)
	}
	if len(twice) > 0 {
		return nil, fmt.Errorf("duplicate cache exports %s", twice)
	}
	return all, nil
}

// key tells entries apart.
func (e Entry) key() string {
	switch {
	case e.Type == TypeInline:
		return e.Type
	case e.Type == TypeRegistry && e.Attrs["ref"] != "":
		return e.Attrs["ref"]
	}
	var b strings.Builder
	b.WriteString(e.Type)
	for _, k := range slices.Sorted(maps.Keys(e.Attrs)) {
		fmt.Fprintf(&b, "\n%s=%s", k, e.Attrs[k])
	}
	return b.String()
}
