package environments

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/hack/bases/baseimage"
)

// shift is the first ID of the machine that a user namespace of a container has.
const shift = 100000

// skeletonHome is where the skeleton image has its own programs.
const skeletonHome = ".slipway"

// skeletonDirs are those that the skeleton image has, for what images have at their top.
var skeletonDirs = []string{
	"bin", "boot", "etc", "home", "lib", "lib64", "media", "mnt", "opt", "root", "run", "sbin", "srv", "tmp", "usr", "var",
}

// certificates are those of the machine, which images of builders have too.
const certificates = "etc/ssl/certs/ca-certificates.crt"

// lower returns the directory of an image's files, which is made the first time; shifted are those whose owners are in
// the user namespace of a container.
func (g *Ground) lower(image Image, shifted bool) (string, error) {
	g.making.Lock()
	defer g.making.Unlock()
	dir := filepath.Join(g.dir, fmt.Sprintf("image-%d-%t", image, shifted))
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	make := g.shellImage
	switch image {
	case SkeletonImage:
		make = g.skeletonImage
	case OwnImage, DebugImage, DaemonImage:
		make = func(dir string) error { return g.ownImage(dir, image) }
	}
	if err := os.Mkdir(dir+".new", 0o755); err != nil {
		return "", err
	}
	if err := make(dir + ".new"); err != nil {
		return "", fmt.Errorf("making image %d: %w", image, err)
	}
	if shifted {
		if err := chownTree(dir+".new", shift, shift); err != nil { // files of other owners are none of what is tried here
			return "", err
		}
	}
	return dir, os.Rename(dir+".new", dir)
}

// shellImage is busybox with slipway.
func (g *Ground) shellImage(dir string) error {
	img, err := baseimage.Busybox()
	if err != nil {
		return err
	}
	layers, err := img.Layers()
	if err != nil {
		return err
	}
	if err := unpackLayers(dir, layers); err != nil {
		return err
	}
	return errors.Join(
		os.MkdirAll(filepath.Join(dir, "var/lib"), 0o755), // as distributions have it
		copyFile(g.slipway, filepath.Join(dir, "usr/local/bin/slipway"), 0o755),
		copyFile("/"+certificates, filepath.Join(dir, certificates), 0o644))
}

// skeletonImage is made to have other images' files swapped in.
func (g *Ground) skeletonImage(dir string) error {
	busybox, err := baseimage.FindBusybox()
	if err != nil {
		return err
	}
	for _, name := range append([]string{skeletonHome, skeletonHome + "/bin"}, skeletonDirs...) {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			return err
		}
		mode := uint32(0o777)
		if name == skeletonHome {
			mode = 0o1777 // a store is made there only where nobody can replace it
		}
		if err := unix.Chmod(filepath.Join(dir, name), mode); err != nil {
			return err
		}
	}
	bin := filepath.Join(dir, skeletonHome, "bin")
	return errors.Join(
		os.Chown(dir, 1000, 0), unix.Chmod(dir, 0o777),
		copyFile(g.slipway, filepath.Join(bin, "slipway"), 0o755),
		copyFile(busybox, filepath.Join(bin, "busybox"), 0o755),
		os.Symlink("busybox", filepath.Join(bin, "sh")),
		copyFile("/"+certificates, filepath.Join(dir, skeletonHome, "ca-certificates.crt"), 0o644))
}

// ownImage is slipway's own image, as hack/image.sh left it.
func (g *Ground) ownImage(dir string, image Image) error {
	img, err := g.own(image)
	if err != nil {
		return err
	}
	layers, err := img.Layers()
	if err != nil {
		return err
	}
	return unpackLayers(dir, layers)
}

// own reads slipway's own image.
func (g *Ground) own(image Image) (v1.Image, error) {
	name := map[Image]string{OwnImage: "slipway", DebugImage: "debug", DaemonImage: "daemon"}[image]
	path, err := layout.FromPath(filepath.Join(g.Images, name))
	if err != nil {
		return nil, fmt.Errorf("%w: hack/image.sh %s makes it", err, name)
	}
	index, err := path.ImageIndex()
	if err != nil {
		return nil, err
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	if len(manifest.Manifests) == 0 {
		return nil, fmt.Errorf("%s is empty", path)
	}
	return path.Image(manifest.Manifests[0].Digest)
}

func unpackLayers(dir string, layers []v1.Layer) error {
	for _, l := range layers {
		r, err := l.Uncompressed()
		if err != nil {
			return err
		}
		err = unpack(dir, tar.NewReader(r))
		if err := errors.Join(err, r.Close()); err != nil {
			return err
		}
	}
	return nil
}

// unpack writes an archive of ours: nothing in it is odd.
func unpack(dir string, tr *tar.Reader) error {
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		to := filepath.Join(dir, h.Name)
		if gone, ok := strings.CutPrefix(filepath.Base(to), ".wh."); ok { // of a layer below
			if err := os.RemoveAll(filepath.Join(filepath.Dir(to), gone)); err != nil {
				return err
			}
			continue
		}
		if h.Typeflag != tar.TypeDir {
			_ = os.Remove(to) // of a layer below
		}
		switch h.Typeflag {
		case tar.TypeDir:
			err = os.MkdirAll(to, 0o755)
		case tar.TypeLink:
			err = os.Link(filepath.Join(dir, h.Linkname), to)
		case tar.TypeReg:
			err = writeFile(to, tr, 0o644)
		case tar.TypeSymlink:
			err = os.Symlink(h.Linkname, to)
		default:
			err = fmt.Errorf("unpacking %s: type %c", h.Name, h.Typeflag)
		}
		if err == nil {
			err = os.Lchown(to, h.Uid, h.Gid)
		}
		if err == nil && h.Typeflag != tar.TypeSymlink {
			err = unix.Chmod(to, uint32(h.Mode&0o7777))
		}
		if err != nil {
			return err
		}
	}
}

func copyFile(from, to string, mode fs.FileMode) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return errors.Join(writeFile(to, f, mode), os.Chmod(to, mode))
}

func writeFile(to string, r io.Reader, mode fs.FileMode) error {
	f, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Close())
}

// chownTree gives all of a tree one owner, and files their modes back, which a change of the owner takes.
func chownTree(dir string, uid, gid int) error {
	return filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		if err := os.Lchown(p, uid, gid); err != nil || d.Type()&fs.ModeSymlink != 0 {
			return err
		}
		return unix.Chmod(p, st.Mode&0o7777)
	})
}
