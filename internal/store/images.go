package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer"
)

// Image is a named manifest.
type Image struct {
	// Name is the normalised reference with its tag, "docker.io/library/app:v1", or with the digest by which it was pulled,
	// "docker.io/library/app@sha256:...". An image that was built without a name is recorded as "<image id>" alone.
	Name     string             `json:"name"`
	Manifest ocispec.Descriptor `json:"manifest"`
	// Index is set when the name stands for an image index, of several platforms or with attestations.
	// Manifest is then the one of it for this machine's platform, or the first.
	Index   *ocispec.Descriptor `json:"index,omitempty"`
	ID      digest.Digest       `json:"id"` // digest of the config, as Docker's image ID
	Created time.Time           `json:"created"`
	Layers  layer.Snapshot      `json:"layers"`
	// Size is the bytes of all layers' files, uncompressed; -1 when no one has looked into some
	// layer yet: [Store.Measure] finds it out.
	Size int64 `json:"size"`
	// Source is what a registry has under the name, when that is not the target: an index of which only
	// Manifest was pulled, or the manifest that was pushed, of compressed layers. It need not be here.
	Source digest.Digest `json:"source,omitempty"`
	// Named is when the name was given; [Store.SetImages] sets it.
	Named time.Time `json:"named,omitzero"`
}

// Target is what the name stands for: the index if there is one, otherwise the manifest.
func (i Image) Target() ocispec.Descriptor {
	if i.Index != nil {
		return *i.Index
	}
	return i.Manifest
}

// RepoDigest is what the name stands for in its registry, as far as that is known.
func (i Image) RepoDigest() digest.Digest {
	if i.Source != "" {
		return i.Source
	}
	return i.Target().Digest
}

// Measure fills in the size of an image. Layers that nobody has looked into are read through, once.
func (s *Store) Measure(ctx context.Context, img *Image) error {
	if img.Size >= 0 {
		return nil
	}
	var sum int64
	for _, id := range img.Layers {
		n, err := s.Size(ctx, id)
		if err != nil {
			return fmt.Errorf("measuring image %s: %w", img.Name, err)
		}
		sum += n
	}
	img.Size = sum
	return nil
}

// Tagged reports whether the image has a name of its own.
func (i Image) Tagged() bool { return i.Name != i.ID.String() }

// Pinned reports whether the name is one with a digest in the place of a tag.
func (i Image) Pinned() bool { return strings.Contains(i.Name, "@") }

// NormalizeName returns the full form of an image name, with registry and tag.
func NormalizeName(name string) (string, error) {
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return "", fmt.Errorf("invalid image name %q: %w", name, err)
	}
	return reference.TagNameOnly(ref).String(), nil
}

// FamiliarName is the short form of a normalised name, split at the tag.
func FamiliarName(name string) (repository, tag string) {
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return "<none>", "<none>"
	}
	tag = "<none>"
	if t, ok := ref.(reference.Tagged); ok {
		tag = t.Tag()
	}
	return reference.FamiliarName(ref), tag
}

// SetImages names images, all or none: after everything they consist of is on the disk. An image
// that loses its last name stays, without a name, as Docker keeps it.
func (s *Store) SetImages(ctx context.Context, images ...Image) error {
	if s.sameImages(ctx, images) {
		return nil
	}
	if err := s.Sync(ctx); err != nil {
		return err
	}
	err := s.updateOnDisk(ctx, func(tx *sql.Tx) error {
		for _, img := range images {
			if err := setImage(tx, img); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return s.writeIndex(ctx)
}

// sameImages reports whether all names are set to just these images already, and to be made of these layers: of an image
// that is built again those of before may be damaged.
func (s *Store) sameImages(ctx context.Context, images []Image) bool {
	for _, img := range images {
		old, err := s.imageByName(ctx, img.Name)
		if err != nil || old.Manifest.Digest != img.Manifest.Digest || old.Target().Digest != img.Target().Digest || img.Source != "" && old.Source != img.Source || !slices.Equal(old.Layers, img.Layers) {
			return false
		}
	}
	index, err := os.ReadFile(filepath.Join(s.root, "index.json"))
	return err == nil && json.Valid(index) // a crash may leave a part of it
}

func setImage(tx *sql.Tx, img Image) error {
	var oldRecord string
	err := tx.QueryRow("SELECT record FROM images WHERE name=?", img.Name).Scan(&oldRecord)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	if !img.Tagged() {
		var named int
		if err := tx.QueryRow("SELECT count(*) FROM images WHERE "+imageID+"=?", img.ID.String()).Scan(&named); err != nil || named > 0 {
			return err // it is listed under its names
		}
	}
	var old Image
	if oldRecord != "" && json.Unmarshal([]byte(oldRecord), &old) == nil && img.Source == "" && old.Target().Digest == img.Target().Digest {
		img.Source = old.Source
	}
	if err := putImage(tx, img); err != nil {
		return err
	}
	// A named image supersedes its nameless record.
	if img.Tagged() {
		if _, err := tx.Exec("DELETE FROM images WHERE name=?", img.ID.String()); err != nil {
			return err
		}
	}
	if old.ID == "" || old.ID == img.ID {
		return nil
	}
	var named int
	if err := tx.QueryRow("SELECT count(*) FROM images WHERE "+imageID+"=?", old.ID.String()).Scan(&named); err != nil || named > 0 {
		return err
	}
	old.Name = old.ID.String()
	return putImage(tx, old)
}

// SetSource remembers what a registry has under the name of an image, unless the name stands for another
// image by now.
func (s *Store) SetSource(ctx context.Context, img Image, source digest.Digest) error {
	if source == img.Target().Digest {
		source = ""
	}
	return s.update(ctx, func(tx *sql.Tx) error {
		var record string
		var now Image
		err := tx.QueryRow("SELECT record FROM images WHERE name=?", img.Name).Scan(&record)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		if err = errors.Join(err, json.Unmarshal([]byte(record), &now)); err != nil {
			return fmt.Errorf("reading image %s: %w", img.Name, err)
		}
		if now.Target().Digest != img.Target().Digest || now.Source == source {
			return nil
		}
		now.Source = source
		data, err := json.Marshal(now)
		if err != nil {
			return err
		}
		_, err = tx.Exec("UPDATE images SET record=? WHERE name=?", string(data), img.Name)
		return err
	})
}

func putImage(tx *sql.Tx, img Image) error {
	img.Named = time.Now()
	data, err := json.Marshal(img)
	if err != nil {
		return err
	}
	_, err = tx.Exec("INSERT INTO images(name,record,tagged) VALUES(?,?,?) ON CONFLICT(name) DO UPDATE SET record=excluded.record, tagged=excluded.tagged",
		img.Name, string(data), img.Named.UnixNano())
	return err
}

func (s *Store) imageByName(ctx context.Context, name string) (Image, error) {
	var record string
	var img Image
	err := s.db.QueryRowContext(ctx, "SELECT record FROM images WHERE name=?", name).Scan(&record)
	if errors.Is(err, sql.ErrNoRows) {
		return img, fmt.Errorf("image %s: %w", name, ErrNotFound)
	}
	if err == nil {
		err = json.Unmarshal([]byte(record), &img)
	}
	if err != nil {
		return img, fmt.Errorf("reading image %s: %w", name, err)
	}
	return img, nil
}

// Images returns all images, the newest first.
func (s *Store) Images(ctx context.Context) ([]Image, error) { return s.images(ctx, "1") }

// images returns those of a condition, the newest first.
func (s *Store) images(ctx context.Context, where string, args ...any) ([]Image, error) {
	all, err := records[Image](ctx, s, "SELECT record FROM images WHERE "+where+" ORDER BY name", args...)
	if err != nil {
		return nil, fmt.Errorf("listing images: %w", err)
	}
	slices.SortStableFunc(all, func(a, b Image) int { return b.Created.Compare(a.Created) })
	return all, nil
}

// Image finds an image by name, by name and digest, by image ID or by an unambiguous prefix of the ID; the
// digest of its index or manifest does as well as the ID. Otherwise the error is ErrNotFound or [ErrAmbiguous].
func (s *Store) Image(ctx context.Context, nameOrID string) (Image, error) {
	if name, err := NormalizeName(nameOrID); err == nil {
		img, err := s.imageByName(ctx, name)
		if err == nil || !errors.Is(err, ErrNotFound) {
			return img, err
		}
	}
	if img, found, err := s.pinnedImage(ctx, nameOrID); found || err != nil {
		return img, err
	}
	prefix := strings.TrimPrefix(nameOrID, "sha256:")
	img, err := s.imageByDigest(ctx, imageID, prefix, func(i Image) string { return i.ID.Encoded() })
	if errors.Is(err, ErrNotFound) {
		img, err = s.imageByDigest(ctx, imageTarget, prefix, func(i Image) string { return i.Target().Digest.Encoded() })
	}
	if err != nil {
		return img, fmt.Errorf("image %s: %w", nameOrID, err)
	}
	return img, nil
}

// What of images' records there is an index of. A record that is damaged has neither.
const (
	imageID     = "iif(json_valid(record), record->>'$.id', '')"
	imageTarget = "iif(json_valid(record), coalesce(record->>'$.index.digest', record->>'$.manifest.digest'), '')"
)

// imageByDigest finds the one image of which a digest begins with prefix.
func (s *Store) imageByDigest(ctx context.Context, of, prefix string, digest func(Image) string) (img Image, err error) {
	if !isHex(prefix) {
		return img, ErrNotFound
	}
	some, err := s.images(ctx, of+" BETWEEN ? AND ?", "sha256:"+prefix, "sha256:"+prefix+"g")
	if err != nil {
		return img, err
	}
	return byID(some, prefix, digest)
}

// pinnedImage finds the image that "app@sha256:..." names by the digest of its manifest or index.
func (s *Store) pinnedImage(ctx context.Context, ref string) (img Image, found bool, err error) {
	named, err := reference.ParseNormalizedNamed(ref)
	pinned, ok := named.(reference.Digested)
	if err != nil || !ok {
		return img, false, nil
	}
	some, err := s.images(ctx, "name BETWEEN ? AND ?", named.Name()+":", named.Name()+"A") // with any tag or digest
	if err != nil {
		return img, false, err
	}
	i := slices.IndexFunc(some, func(i Image) bool {
		return slices.Contains([]digest.Digest{i.Target().Digest, i.Manifest.Digest, i.Source}, pinned.Digest())
	})
	if i < 0 {
		return img, false, nil
	}
	return some[i], true, nil
}

// writeIndex writes index.json from the records. Writers take turns, so that the last one writes
// what the records say last.
func (s *Store) writeIndex(ctx context.Context) error {
	lock, err := os.Open(s.layoutMarker())
	if errors.Is(err, os.ErrNotExist) { // somebody has removed it, and nothing needs what it says
		if err = s.writeLayoutMarker(); err == nil {
			lock, err = os.Open(s.layoutMarker())
		}
	}
	if err != nil {
		return fmt.Errorf("writing index.json: %w", err)
	}
	defer lock.Close()
	if err := flock(lock, unix.LOCK_EX); err != nil {
		return fmt.Errorf("writing index.json: %w", err)
	}
	images, err := s.Images(ctx)
	if err != nil {
		return err
	}
	data, err := json.Marshal(indexOf(images))
	if err != nil {
		return fmt.Errorf("writing index.json: %w", err)
	}
	err = s.replaceBeside(filepath.Join(s.root, "index.json"), func(f *os.File) error {
		_, err := f.Write(data)
		return err
	})
	if err != nil {
		return fmt.Errorf("writing index.json: %w", err)
	}
	return nil
}

// indexOf is index.json for images.
func indexOf(images []Image) ocispec.Index {
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{}}
	for _, img := range images {
		desc := img.Target()
		if img.Tagged() {
			desc.Annotations = map[string]string{"io.containerd.image.name": img.Name}
			if repo, tag := FamiliarName(img.Name); !img.Pinned() {
				desc.Annotations[ocispec.AnnotationRefName] = repo + ":" + tag
			}
		}
		index.Manifests = append(index.Manifests, desc)
	}
	return index
}

// Ref returns the image manifest, or the index with it, that a reference meant for a platform when it was last resolved.
func (s *Store) Ref(ctx context.Context, ref, platform string) (digest.Digest, bool) {
	var d string
	err := s.db.QueryRowContext(ctx, "SELECT digest FROM refs WHERE ref=? AND platform=?", ref, platform).Scan(&d)
	if err == nil {
		s.noteUse("refs", refKey(ref, platform))
	}
	return digest.Digest(d), err == nil
}

// SetRef remembers what a reference means for a platform.
func (s *Store) SetRef(ctx context.Context, ref, platform string, d digest.Digest) error {
	return s.update(ctx, func(tx *sql.Tx) error {
		_, err := tx.Exec("INSERT INTO refs(ref,platform,digest,used) VALUES(?,?,?,?) ON CONFLICT DO UPDATE SET digest=excluded.digest, used=excluded.used",
			ref, platform, d.String(), time.Now().UnixNano())
		return err
	})
}

// LocalImage returns the manifest, or the index, of the image with this name, or with this ID.
func (s *Store) LocalImage(ctx context.Context, ref string) (digest.Digest, bool) {
	img, err := s.UseImage(ctx, ref)
	return img.Target().Digest, err == nil
}
