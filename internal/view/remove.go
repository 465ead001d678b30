package view

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/internal/container"
	"github.com/slipway-build/slipway/internal/store"
)

// Removed is something of an image that went: a name, or the image itself.
type Removed struct {
	ID       digest.Digest // of the image
	Untagged string        // the short form of the name
	Deleted  bool
}

// removal is what removing an image means.
type removal struct {
	img   store.Image
	names []string // to be removed, of those that the image has
	keeps bool     // the image keeps other names
	bare  bool     // a running container uses it: it stays without a name
}

// RemoveImage removes one name of an image, or an image by its ID. The space of an image that was deleted is given back by
// [store.Store.Collect].
func RemoveImage(ctx context.Context, s *store.Store, nameOrID string, force bool) ([]Removed, error) {
	r, err := planRemoval(ctx, s, nameOrID, force)
	if err != nil {
		return nil, err
	}
	if r.bare && !r.keeps {
		last := len(r.names) - 1
		if last > 0 {
			err = s.RemoveImages(ctx, r.names[:last]...)
		}
		if err == nil {
			r.img.Name = r.names[last]
			err = s.UntagImage(ctx, r.img)
		}
	} else {
		err = s.RemoveImages(ctx, r.names...)
	}
	if err != nil {
		return nil, err
	}
	var gone []Removed
	for _, name := range r.names {
		if name != r.img.ID.String() {
			gone = append(gone, Removed{ID: r.img.ID, Untagged: Familiar(name)})
		}
	}
	if !r.keeps && !r.bare {
		gone = append(gone, Removed{ID: r.img.ID, Deleted: true})
	}
	return gone, nil
}

// planRemoval finds out what is to be removed and whether that may be. The rules and words are those of
// Docker's engine: a name may go while another one is left; an image that containers use needs force; one
// that a running container uses cannot be deleted, but lose its name.
func planRemoval(ctx context.Context, s *store.Store, nameOrID string, force bool) (*removal, error) {
	img, err := FindImage(ctx, s, nameOrID)
	if err != nil {
		return nil, err
	}
	names, err := namesByID(ctx, s, img.ID)
	if err != nil {
		return nil, err
	}
	user, running, err := imageUser(ctx, s, img.ID)
	if err != nil {
		return nil, err
	}
	named, err := namedBy(nameOrID, img, names)
	if err != nil {
		return nil, err
	}
	if len(named) > 0 {
		r := &removal{img: img, names: named, keeps: len(names) > len(named), bare: running}
		if !r.keeps && user != "" && !force {
			return nil, fmt.Errorf("conflict: unable to remove repository reference %q (must force) - container %s is using its referenced image %s",
				nameOrID, ShortID(user), ShortID(img.ID.String()))
		}
		return r, nil
	}
	conflict := func(how, why string) error {
		return fmt.Errorf("conflict: unable to delete %s (%s) - %s", ShortID(img.ID.String()), how, why)
	}
	switch {
	case running:
		return nil, conflict("cannot be forced", "image is being used by running container "+ShortID(user))
	case len(names) > 1 && !force:
		return nil, conflict("must be forced", "image is referenced in multiple repositories")
	case user != "" && !force:
		return nil, conflict("must be forced", "image is being used by stopped container "+ShortID(user))
	}
	return &removal{img: img, names: names}, nil
}

// namedBy are those of the names of an image that go with one of them; none if the image was not found by a name. With the last tag of a repository its digests
// go, and with a digest all that the repository calls the image, unless it is said together with a tag: it is that one then.
func namedBy(nameOrID string, img store.Image, names []string) ([]string, error) {
	ref, err := reference.ParseNormalizedNamed(nameOrID)
	if err != nil {
		return nil, nil
	}
	tagged, hasTag := ref.(reference.Tagged)
	_, pinned := ref.(reference.Digested)
	if !pinned && reference.TagNameOnly(ref).String() != img.Name {
		return nil, nil
	}
	one := img.Name
	if pinned && hasTag {
		one = ref.Name() + ":" + tagged.Tag()
	}
	var same, tags []string
	for _, name := range names {
		other, err := reference.ParseNormalizedNamed(name)
		if err != nil || other.Name() != ref.Name() || name == img.ID.String() {
			continue
		}
		if same = append(same, name); !strings.Contains(name, "@") {
			tags = append(tags, name)
		}
	}
	switch {
	case pinned && !hasTag || len(tags) == 0:
		return same, nil
	case !slices.Contains(tags, one): // the tag is another image's, or none's
		return nil, notFound("image", nameOrID, fmt.Errorf("image %s: %w", nameOrID, store.ErrNotFound))
	case len(tags) > 1:
		return []string{one}, nil
	}
	return same, nil
}

// namesByID lists the names under which the store has an image.
func namesByID(ctx context.Context, s *store.Store, id digest.Digest) (names []string, err error) {
	all, err := s.Images(ctx)
	for _, img := range all {
		if img.ID == id {
			names = append(names, img.Name)
		}
	}
	return names, err
}

// imageUser returns the ID of a container that is made of an image, a running one if there is one; "" for none.
func imageUser(ctx context.Context, s *store.Store, id digest.Digest) (user string, running bool, err error) {
	users, err := ImageUsers(ctx, s)
	m := container.Manager{Store: s}
	for _, user = range users[id] {
		if m.State(user).Running {
			return user, true, err
		}
	}
	return user, false, err
}

// ImageUsers lists the IDs of the containers of each image, the newest first.
func ImageUsers(ctx context.Context, s *store.Store) (map[digest.Digest][]string, error) {
	all, err := s.Containers(ctx)
	users := map[digest.Digest][]string{}
	for _, c := range all {
		users[c.ImageID] = append(users[c.ImageID], c.ID)
	}
	return users, err
}

// PruneImages removes the names that a filter lets through, of images that no container uses, and gives their space back by
// collect, [store.Store.Collect] or CollectBeside. It returns what went, each image after the last of its names, and the bytes of the disk that are free now.
func PruneImages(ctx context.Context, s *store.Store, f ImageFilter, collect func(context.Context) (int64, error)) (gone []Removed, freed int64, err error) {
	images, err := Images(ctx, s, f)
	if err != nil {
		return nil, 0, err
	}
	users, err := ImageUsers(ctx, s)
	if err != nil {
		return nil, 0, err
	}
	images = slices.DeleteFunc(images, func(img store.Image) bool { return len(users[img.ID]) > 0 })
	var names []string
	for i, img := range images {
		names = append(names, img.Name)
		if img.Tagged() {
			gone = append(gone, Removed{ID: img.ID, Untagged: Familiar(img.Name)})
		}
		if !slices.ContainsFunc(images[i+1:], func(o store.Image) bool { return o.ID == img.ID }) {
			gone = append(gone, Removed{ID: img.ID, Deleted: true})
		}
	}
	if err := s.PruneImages(ctx, names...); err != nil {
		return nil, 0, err
	}
	if freed, err = collect(ctx); err != nil {
		return nil, 0, err
	}
	return gone, freed, nil
}

// PruneContainers removes the containers that do not run and that a filter lets through. It returns their IDs and the bytes
// of the disk that are free now, also when some could not be removed.
func PruneContainers(ctx context.Context, m *container.Manager, f ContainerFilter) (gone []string, freed int64, err error) {
	f.All = true
	all, err := chooseContainers(ctx, m, f)
	if err != nil {
		return nil, 0, err
	}
	var errs error
	for _, c := range all {
		if c.State.Running {
			continue
		}
		n, _ := m.Size(c.Container) // what it cannot be told of goes as well
		err = m.Remove(ctx, c.ID, false, false)
		if errors.Is(err, container.ErrRunning) {
			continue // since we looked
		}
		if err != nil {
			errs = errors.Join(errs, err)
			continue
		}
		freed += n
		gone = append(gone, c.ID)
	}
	return gone, freed, errs
}

// PruneCache removes build cache as a policy wants it, with it failed steps that are kept when the policy is about everything, and records of builds: all when all of the cache goes that was
// not used for some time ([TakesBuilds]), otherwise those that are not to be kept; nil keeps them. The caller must not be
// using layers or blobs.
func PruneCache(ctx context.Context, s *store.Store, p store.Policy, keep *store.History) (store.Pruned, error) {
	steps, err := pruneSteps(ctx, s, p)
	if err != nil {
		return store.Pruned{Freed: steps}, err
	}
	pruned, err := s.Prune(ctx, p)
	pruned.Freed += steps
	if err != nil {
		return pruned, err
	}
	if TakesBuilds(p) {
		keep = &store.History{MaxAge: p.KeepDuration}
	}
	if keep == nil {
		return pruned, nil
	}
	_, freed, err := s.PruneBuilds(*keep)
	pruned.Freed += freed
	return pruned, err
}

// TakesBuilds reports whether all records of builds go with what a policy takes of the cache.
func TakesBuilds(p store.Policy) bool { return p.All && takesEverything(p) }

// takesEverything reports whether a policy chooses by nothing but time.
func takesEverything(p store.Policy) bool {
	limits := p.ReservedSpace != (store.Space{}) || p.MaxUsedSpace != (store.Space{}) || p.MinFreeSpace != (store.Space{})
	return !limits && len(p.Filters) == 0
}

// pruneSteps removes failed steps that are kept, and do not run, before the cache that they stand on.
func pruneSteps(ctx context.Context, s *store.Store, p store.Policy) (freed int64, err error) {
	if !takesEverything(p) {
		return 0, nil
	}
	m := &container.Manager{Store: s}
	all, err := s.Containers(ctx)
	for _, c := range all {
		if container.StepOf(c) == nil || time.Since(c.Created) < p.KeepDuration || m.State(c.ID).Running {
			continue
		}
		n, _ := m.Size(c)
		serr := m.Remove(ctx, c.ID, false, false)
		switch {
		case serr == nil:
			freed += n
		case !errors.Is(serr, container.ErrRunning) && !errors.Is(serr, store.ErrNotFound): // since we looked
			err = errors.Join(err, serr)
		}
	}
	return freed, err
}
