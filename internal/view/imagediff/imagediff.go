// Package imagediff tells how two images differ: in their configuration, history, packages, sizes and files.
//
// # Structure
//
// [Compare] gives everything but the files, which [Comparison.Files] tells one after the other: there may be a million. What
// images are is read from the indexes of their layers, of which none is unpacked.
//
// # Caveats
//
// Names and texts come from the images: who shows them makes them harmless.
package imagediff

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"slices"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/store"
	"github.com/slipway-build/slipway/internal/view"
)

// Side is one of the two images.
type Side struct {
	Image  string        `json:"image"` // as it was asked for
	ID     digest.Digest `json:"id"`
	Size   int64         `json:"size"` // bytes of all layers' files
	Layers int           `json:"layers"`
}

// Comparison is how an image B differs from A.
type Comparison struct {
	A        Side      `json:"a"`
	B        Side      `json:"b"`
	Config   []Value   `json:"config"`
	History  []Step    `json:"history"`
	Packages []Package `json:"packages"`
	Unread   []string  `json:"unreadPackages,omitempty"` // databases of rpm that are damaged, by their paths: packages of rpm are not compared then

	trees [2]layer.Tree
}

// Value is something that the configurations do not have the same. What one does not have is nil.
type Value struct {
	Field string  `json:"field"` // "entrypoint", "env PATH", "label version"
	A     *string `json:"a"`
	B     *string `json:"b"`
}

// Step is an instruction that the history of one image alone has.
type Step struct {
	Kind      layer.DiffKind `json:"kind"`
	CreatedBy string         `json:"createdBy"`
}

// Change is a file, or anything else in a filesystem, that the images do not have the same.
type Change struct {
	Kind layer.DiffKind `json:"kind"`
	Path string         `json:"path"`
	What []string       `json:"what,omitempty"` // of a changed one, see [layer.Difference]
	A    *File          `json:"a,omitempty"`
	B    *File          `json:"b,omitempty"`
}

// File is what is at a path.
type File struct {
	Type string `json:"type"` // "file", "directory", "link", "device", "fifo"
	Mode string `json:"mode"` // permissions, in octal
	UID  uint32 `json:"uid"`
	GID  uint32 `json:"gid"`
	Size int64  `json:"size,omitempty"`
	Link string `json:"link,omitempty"`
}

// Sum counts changes of files.
type Sum struct {
	Added   int   `json:"added"`
	Removed int   `json:"removed"`
	Changed int   `json:"changed"`
	Bytes   int64 `json:"bytes"` // by how much more of them a container sees in B
}

// Options say what counts.
type Options struct {
	Times bool // times of files, and when images were made
}

// Image is one to be compared, under the name by which it was asked for.
type Image struct {
	Name string
	store.Image
}

// Compare compares two images. Layers that nobody has looked into are read through, once.
func Compare(ctx context.Context, s *store.Store, a, b Image, opt Options) (*Comparison, error) {
	c := &Comparison{Config: []Value{}, History: []Step{}, Packages: []Package{}}
	var configs [2]*dockerspec.DockerOCIImage
	var packages [2]map[packageKey]installed
	for i, img := range []*Image{&a, &b} {
		var err error
		if configs[i], err = view.ImageConfig(ctx, s, img.ID); err != nil {
			return nil, err
		}
		if c.trees[i], err = s.Tree(ctx, img.Layers, store.NeedDigests); err != nil {
			return nil, err
		}
		if err = s.Measure(ctx, &img.Image); err != nil {
			return nil, err
		}
		var unread []string
		if packages[i], unread, err = packagesOf(c.trees[i]); err != nil {
			return nil, fmt.Errorf("reading packages of %s: %w", img.Name, err)
		}
		c.Unread = append(c.Unread, unread...)
	}
	c.A, c.B = sideOf(a), sideOf(b)
	c.Config = append(c.Config, compareConfigs(configs[0], configs[1], opt)...)
	c.History = append(c.History, compareHistory(configs[0], configs[1])...)
	if len(c.Unread) > 0 { // what one image has of them would seem to be all new
		for i := range packages {
			maps.DeleteFunc(packages[i], func(k packageKey, _ installed) bool { return k.manager == "rpm" })
		}
	}
	c.Packages = append(c.Packages, comparePackages(packages[0], packages[1])...)
	slices.Sort(c.Unread)
	c.Unread = slices.Compact(c.Unread)
	return c, nil
}

func sideOf(img Image) Side { return Side{img.Name, img.ID, img.Size, len(img.Layers)} }

// Files tells fn all changes of files, in the order of their paths, and counts them.
func (c *Comparison) Files(ctx context.Context, opt Options, fn func(Change) error) (sum Sum, err error) {
	err = layer.DiffEntries(c.trees[0], c.trees[1], func(a, b *layer.Entry, what []string) error {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		change := Change{Kind: layer.Changed, A: fileOf(a), B: fileOf(b), What: what}
		switch {
		case a == nil:
			change.Kind, change.Path = layer.Added, "/"+b.Path
			sum.Added++
			sum.Bytes += b.Size
		case b == nil:
			change.Kind, change.Path = layer.Removed, "/"+a.Path
			sum.Removed++
			sum.Bytes -= a.Size
		default:
			if !opt.Times {
				change.What = slices.DeleteFunc(what, func(w string) bool { return w == "mtime" })
			}
			if len(change.What) == 0 {
				return nil
			}
			change.Path = "/" + b.Path
			sum.Changed++
			sum.Bytes += b.Size - a.Size
		}
		return fn(change)
	})
	return sum, err
}

func fileOf(e *layer.Entry) *File {
	if e == nil {
		return nil
	}
	f := &File{Type: "file", Mode: fmt.Sprintf("%04o", e.Perm()), UID: e.UID, GID: e.GID, Size: e.Size, Link: e.Link}
	switch e.Type() {
	case unix.S_IFDIR:
		f.Type = "directory"
	case unix.S_IFLNK:
		f.Type = "link"
	case unix.S_IFCHR, unix.S_IFBLK:
		f.Type = "device"
	case unix.S_IFIFO:
		f.Type = "fifo"
	}
	return f
}

// Empty reports whether nothing differs, given what the files are.
func (c *Comparison) Empty(files Sum) bool {
	return len(c.Config)+len(c.History)+len(c.Packages)+files.Added+files.Removed+files.Changed == 0
}

// isMissing reports whether there is nothing at a path.
func isMissing(err error) bool { return isAny(err, fs.ErrNotExist, unix.ENOTDIR) }
