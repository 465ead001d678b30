// Package manifestlist puts manifest lists together as the command manifest of docker does: in files, image by image,
// until a list is pushed.
//
// # Structure
//
// A [Store] holds the lists that are being made (store.go); [Fetch] reads an image's manifest from its registry, [Marshal] makes
// the list of them and [Push] pushes it (list.go).
//
// # Caveats
//
// The files are docker's, DIRECTORY/LIST/IMAGE below the directory of its configuration: what the one program has begun the other
// one can end. Their names are made of references, in which "/" became "_" and ":" became "-", so that different references may
// have the same name. What belongs to another reference is not taken for the one that was asked for.
package manifestlist

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Image is the manifest of one image, as docker's files and `manifest inspect -v` have it.
type Image struct {
	Ref              string
	Descriptor       ocispec.Descriptor
	Raw              []byte          `json:",omitempty"`
	SchemaV2Manifest json.RawMessage `json:",omitempty"`
	OCIManifest      json.RawMessage `json:",omitempty"`
}

// maxFile is the size in bytes of the largest file that is read: a manifest is in it twice, once in base64.
const maxFile = 16 << 20

// Store holds lists in a directory, each with a directory of its own. Several processes may use it at once: a file
// is whole or not there.
type Store struct{ Dir string }

// stored is an image in a file. List is ours: docker does not read it.
type stored struct {
	Image
	List string `json:",omitempty"`
}

// fileName is docker's for a reference. No reference begins with a dot, so neither does this.
func fileName(ref reference.Named) string {
	return strings.NewReplacer(":", "-", "/", "_").Replace(ref.String())
}

// List returns the images of a list, in the order of their files' names. The error is errdefs.ErrNotFound when there is no such list.
func (s Store) List(list reference.Named) ([]Image, error) {
	root, err := s.open(list)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	dir, err := root.Open(".")
	if err != nil {
		return nil, fmt.Errorf("reading manifest list %s: %w", list, err)
	}
	entries, err := dir.ReadDir(-1)
	if err = errors.Join(err, dir.Close()); err != nil {
		return nil, fmt.Errorf("reading manifest list %s: %w", list, err)
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") { // else it is being written
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	return s.readAll(root, list, names)
}

// Image returns an image of a list. The error is errdefs.ErrNotFound when there is none.
func (s Store) Image(list, ref reference.Named) (Image, error) {
	root, err := s.open(list)
	if err != nil {
		if errdefs.IsNotFound(err) {
			return Image{}, notFound(ref)
		}
		return Image{}, err
	}
	defer root.Close()
	img, err := s.read(root, list, fileName(ref))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Image{}, notFound(ref)
	case err == nil && img.Ref != ref.String():
		return Image{}, fmt.Errorf("manifest list %s has image %s under the name of %s: %w", list, img.Ref, ref, errdefs.ErrAlreadyExists)
	}
	return img, err
}

// Save adds images to a list, in place of what it has of the same references.
func (s Store) Save(list reference.Named, images ...Image) error {
	if err := os.MkdirAll(filepath.Join(s.Dir, fileName(list)), 0o755); err != nil {
		return fmt.Errorf("keeping manifest list %s: %w", list, err)
	}
	root, err := s.open(list)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, img := range images {
		if err := save(root, list, img); err != nil {
			return fmt.Errorf("keeping manifest list %s: %w", list, err)
		}
	}
	return nil
}

// save writes a file and puts it in its place.
func save(root *os.Root, list reference.Named, img Image) error {
	ref, err := reference.ParseNamed(img.Ref)
	if err != nil {
		return err
	}
	data, err := json.Marshal(stored{Image: img, List: list.String()})
	if err != nil {
		return err
	}
	tmp := "." + strconv.Itoa(os.Getpid()) + ".tmp"
	if err = root.WriteFile(tmp, data, 0o644); err == nil {
		err = root.Rename(tmp, fileName(ref))
	}
	if err != nil {
		root.Remove(tmp) // the error is what counts
	}
	return err
}

// Remove removes a list. The error is errdefs.ErrNotFound when there is none.
func (s Store) Remove(list reference.Named) error {
	if _, err := s.List(list); errdefs.IsNotFound(err) || errdefs.IsAlreadyExists(err) {
		return err // another error is no reason to keep it
	}
	root, err := os.OpenRoot(s.Dir)
	if err != nil {
		return fmt.Errorf("removing manifest list %s: %w", list, err)
	}
	defer root.Close()
	if err := root.RemoveAll(fileName(list)); err != nil {
		return fmt.Errorf("removing manifest list %s: %w", list, err)
	}
	return nil
}

// open opens the directory of a list.
func (s Store) open(list reference.Named) (*os.Root, error) {
	root, err := os.OpenRoot(filepath.Join(s.Dir, fileName(list)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, notFound(list)
	}
	if err != nil {
		return nil, fmt.Errorf("opening manifest list %s: %w", list, err)
	}
	return root, nil
}

func (s Store) readAll(root *os.Root, list reference.Named, names []string) ([]Image, error) {
	images := make([]Image, 0, len(names))
	for _, name := range names {
		img, err := s.read(root, list, name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // somebody has removed it
		}
		if err != nil {
			return nil, err
		}
		images = append(images, img)
	}
	return images, nil
}

// read reads a file of a list. What is in it has the digest that it says, and is of this list, as far as it says.
func (s Store) read(root *os.Root, list reference.Named, name string) (Image, error) {
	path := filepath.Join(root.Name(), name)
	f, err := root.Open(name)
	if err != nil {
		return Image{}, err
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return Image{}, err
	}
	var img stored
	if len(data) > maxFile {
		err = fmt.Errorf("it is larger than %d bytes", maxFile)
	} else if err = json.Unmarshal(data, &img); err == nil {
		err = img.check()
	}
	if err != nil {
		return Image{}, fmt.Errorf("invalid manifest file %s: %w: remove the list (manifest rm %s) and create it again", path, err, list)
	}
	if img.List != "" && img.List != list.String() {
		return Image{}, fmt.Errorf("manifest list %s is kept under the same name as %s: remove that one first (manifest rm %s): %w", img.List, list, img.List, errdefs.ErrAlreadyExists)
	}
	return img.Image, nil
}

// check compares a manifest with its descriptor.
func (i *Image) check() error {
	if _, err := reference.ParseNamed(i.Ref); err != nil {
		return fmt.Errorf("reference %q: %w", i.Ref, err)
	}
	if err := i.Descriptor.Digest.Validate(); err != nil {
		return fmt.Errorf("digest %q: %w", i.Descriptor.Digest, err)
	}
	if got := i.Descriptor.Digest.Algorithm().FromBytes(i.Raw); got != i.Descriptor.Digest || int64(len(i.Raw)) != i.Descriptor.Size {
		return fmt.Errorf("image manifest digest mismatch (%s != %s)", i.Descriptor.Digest, got)
	}
	return nil
}

// notFound is docker's error for what is not there.
func notFound(ref reference.Named) error {
	return errdefs.ErrNotFound.WithMessage("No such manifest: " + ref.String())
}
