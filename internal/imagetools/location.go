package imagetools

import (
	"fmt"
	"regexp"
	"strings"
	"sync"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/internal/ocilayout"
)

// Location says where an image is: in a repository of a registry, or in a directory that is an OCI layout.
type Location struct {
	named reference.Named // nil for a layout

	dir    ocilayout.Dir
	tag    string
	digest digest.Digest
}

// layoutPrefix begins the text of a location in a layout: oci-layout://DIR[:TAG][@DIGEST].
const layoutPrefix = "oci-layout://"

var layoutTag = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[\w][\w.-]{0,127}$`) })

// ParseLocation reads a location, which gets the tag latest if it has neither tag nor digest. The rules are buildx'.
func ParseLocation(text string) (Location, error) {
	path, ok := strings.CutPrefix(text, layoutPrefix)
	if !ok {
		ref, err := reference.ParseNormalizedNamed(text)
		if err != nil {
			return Location{}, err
		}
		return Location{named: reference.TagNameOnly(ref)}, nil
	}
	var l Location
	if i := strings.LastIndex(path, "@"); i >= 0 && strings.Contains(path[i:], ":") && !strings.Contains(path[i:], "/") {
		d, err := digest.Parse(path[i+1:])
		if err != nil {
			return l, fmt.Errorf("%s: %w", text, err)
		}
		path, l.digest = path[:i], d
	}
	if i := strings.LastIndex(path, ":"); i >= 0 && layoutTag().MatchString(path[i+1:]) {
		path, l.tag = path[:i], path[i+1:]
	}
	if path == "" {
		return l, fmt.Errorf("%s: want %sDIRECTORY[:TAG]", text, layoutPrefix)
	}
	if l.dir = ocilayout.Dir(path); l.tag == "" && l.digest == "" {
		l.tag = "latest"
	}
	return l, nil
}

// isLayout reports whether it is in a directory.
func (l Location) isLayout() bool { return l.named == nil }

// Name is the repository, or the directory.
func (l Location) Name() string {
	if l.isLayout() {
		return string(l.dir)
	}
	return l.named.Name()
}

// String is the text that ParseLocation reads.
func (l Location) String() string {
	if !l.isLayout() {
		return l.named.String()
	}
	text := layoutPrefix + string(l.dir)
	if l.tag != "" {
		text += ":" + l.tag
	}
	if l.digest != "" {
		text += "@" + l.digest.String()
	}
	return text
}

// Tag is the tag, if there is one.
func (l Location) Tag() string {
	if t, ok := l.named.(reference.Tagged); ok {
		return t.Tag()
	}
	return l.tag
}

// Digest is the digest, if there is one.
func (l Location) Digest() digest.Digest {
	if d, ok := l.named.(reference.Digested); ok {
		return d.Digest()
	}
	return l.digest
}

// repository is the location without a tag and a digest.
func (l Location) repository() Location {
	if l.isLayout() {
		return Location{dir: l.dir, tag: "latest"}
	}
	return Location{named: reference.TrimNamed(l.named)}
}

// WithDigest is something else in the same place.
func (l Location) WithDigest(d digest.Digest) (Location, error) {
	if !l.isLayout() {
		ref, err := reference.WithDigest(l.named, d)
		return Location{named: ref}, err
	}
	if l.digest = d; !strings.Contains(string(l.dir), ":") { // otherwise a part of the path would be taken for a tag
		l.tag = ""
	}
	return l, nil
}
