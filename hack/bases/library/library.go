// Package library keeps base images in a directory and serves them as a registry under the
// names that Dockerfiles use.
//
// # Structure
//
// The directory is an OCI image layout; each image is an index in it, found by an annotation
// with its kind ("busybox", "golang", "debian") and one with the identity of what it was made
// from. [Library.Make] makes what is missing or outdated; [Library.Serve] answers for the rest.
package library

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/match"
	"github.com/google/go-containerregistry/pkg/v1/types"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/hack/bases/baseimage"
)

// Annotations of the layout's index: what an image is, what it was made from, and the names
// that it is served under, separated by spaces.
const (
	kindKey   = "build.slipway.base.kind"
	inputsKey = "build.slipway.base.inputs"
	namesKey  = "build.slipway.base.names"
)

// Kinds are the images that can be made, quickest first.
var Kinds = []string{"busybox", "golang", "debian"}

// Library is a directory of base images. Several processes may use it: making takes a lock.
type Library struct {
	dir string
	oci layout.Path
}

// Open opens the library in dir, which is made when it is missing.
func Open(dir string) (*Library, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	oci, err := layout.FromPath(dir)
	if errors.Is(err, fs.ErrNotExist) {
		oci, err = layout.Write(dir, empty.Index)
	}
	if err != nil {
		return nil, fmt.Errorf("opening library %s: %w", dir, err)
	}
	return &Library{dir: dir, oci: oci}, nil
}

// plan is how one image is made.
type plan struct {
	inputs string   // identity of everything that goes in
	names  []string // repository:tag, first the one to show
	image  func() (v1.Image, error)
}

// Make makes the image of a kind unless the same is there, and reports whether it did. What
// debootstrap prints goes to debootstrap.log in the library's directory.
func (l *Library) Make(ctx context.Context, kind string) (made bool, err error) {
	unlock, err := l.lock()
	if err != nil {
		return false, err
	}
	defer unlock()
	p, err := l.plan(ctx, kind)
	if err != nil {
		return false, err
	}
	desc, err := l.find(kind)
	if err != nil {
		return false, err
	}
	if desc != nil && desc.Annotations[inputsKey] == p.inputs {
		return false, nil
	}
	img, err := p.image()
	if err != nil {
		return false, err
	}
	index := mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.OCIImageIndex), mutate.IndexAddendum{
		Add:        img,
		Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: runtime.GOARCH}},
	})
	notes := map[string]string{kindKey: kind, inputsKey: p.inputs, namesKey: strings.Join(p.names, " ")}
	if err := l.oci.ReplaceIndex(index, match.Annotation(kindKey, kind), layout.WithAnnotations(notes)); err != nil {
		return false, fmt.Errorf("keeping %s in %s: %w", kind, l.dir, err)
	}
	return true, nil
}

// plan finds out what this machine would make an image of a kind from.
func (l *Library) plan(ctx context.Context, kind string) (*plan, error) {
	busybox, err := baseimage.FindBusybox()
	if err != nil {
		return nil, err
	}
	switch kind {
	case "busybox":
		return &plan{
			inputs: identity([]string{busybox}),
			names:  []string{"busybox:latest", "busybox:1", "alpine:latest", "alpine:3"},
			image:  baseimage.Busybox,
		}, nil
	case "golang":
		goroot, version, err := baseimage.FindGo()
		if err != nil {
			return nil, err
		}
		return &plan{
			inputs: identity([]string{busybox, filepath.Join(goroot, "bin", "go"), "/etc/ssl/certs/ca-certificates.crt"}),
			names:  goNames(version),
			image:  func() (v1.Image, error) { return baseimage.GoToolchain(goroot, version) },
		}, nil
	case "debian":
		d, err := baseimage.FindDistribution()
		if err != nil {
			return nil, err
		}
		return &plan{
			inputs: identity(nil, d.ID, d.Codename, d.Mirror, strings.Join(d.Sources, "")),
			names:  debianNames(d),
			image:  func() (v1.Image, error) { return l.debian(ctx, d) },
		}, nil
	}
	return nil, fmt.Errorf("unknown kind of image %q, want one of: %s", kind, strings.Join(Kinds, ", "))
}

// debian makes a Debian image and keeps the log of it.
func (l *Library) debian(ctx context.Context, d baseimage.Distribution) (v1.Image, error) {
	log, err := os.Create(filepath.Join(l.dir, "debootstrap.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	img, err := baseimage.Debian(ctx, d, l.dir, log)
	if err != nil {
		return nil, fmt.Errorf("%w (log: %s)", err, log.Name())
	}
	return img, nil
}

// goNames gives the tags of the public Go image that a version answers for, such as
// golang:latest, golang:1, golang:1.26 and golang:1.26.8.
func goNames(version string) []string {
	names := []string{"golang:latest"}
	for i, c := range version + "." {
		if c == '.' {
			names = append(names, "golang:"+version[:i])
		}
	}
	return names
}

// debianNames gives the tags that a Debian system answers for. An Ubuntu machine has Ubuntu
// answer for Debian: it has the same commands.
func debianNames(d baseimage.Distribution) []string {
	names := []string{"debian:stable-slim", "debian:stable", "debian:latest", d.ID + ":" + d.Codename}
	if d.ID == "debian" {
		return append(names, "debian:"+d.Codename+"-slim")
	}
	return append(names, "ubuntu:latest")
}

// identity hashes the contents of files and some words. A file that cannot be read counts as
// missing: making the image gives the error if it is needed.
func identity(files []string, words ...string) string {
	h := sha256.New()
	fmt.Fprintf(h, "recipe %s\narch %s\n", baseimage.Recipe, runtime.GOARCH)
	for _, file := range files {
		body, err := os.ReadFile(file)
		fmt.Fprintf(h, "file %v %x\n", err == nil, sha256.Sum256(body))
	}
	for _, word := range words {
		fmt.Fprintf(h, "word %q\n", word)
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

// find returns the descriptor of a kind's index, or nil.
func (l *Library) find(kind string) (*v1.Descriptor, error) {
	all, err := l.descriptors()
	if err != nil {
		return nil, err
	}
	for _, d := range all {
		if d.Annotations[kindKey] == kind {
			return &d, nil
		}
	}
	return nil, nil
}

func (l *Library) descriptors() ([]v1.Descriptor, error) {
	index, err := l.oci.ImageIndex()
	if err != nil {
		return nil, fmt.Errorf("reading library %s: %w", l.dir, err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return nil, fmt.Errorf("reading library %s: %w", l.dir, err)
	}
	return manifest.Manifests, nil
}

// Names returns the digest that each name is served with, for what has been made: the keys
// are like "golang:latest".
func (l *Library) Names() (map[string]v1.Hash, error) {
	all, err := l.descriptors()
	if err != nil {
		return nil, err
	}
	names := map[string]v1.Hash{}
	for _, d := range all {
		for _, name := range strings.Fields(d.Annotations[namesKey]) {
			names[name] = d.Digest
		}
	}
	return names, nil
}

// lock keeps other processes from making images in the library.
func (l *Library) lock() (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(l.dir, ".lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("locking library: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("locking library: %w", err), f.Close())
	}
	return func() { f.Close() }, nil
}
