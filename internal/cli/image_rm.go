package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/slipway-build/slipway/internal/container"
	"github.com/slipway-build/slipway/internal/store"
)

func newImageRmCmd(a *app, use string) *cobra.Command {
	var force, noPrune bool
	cmd := &cobra.Command{
		Use:   use + " [OPTIONS] IMAGE [IMAGE...]",
		Short: "Remove one or more images",
		Args:  minArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.Store()
			if err != nil {
				return err
			}
			return a.removeImages(cmd.Context(), s, args, force)
		},
	}
	if use == "rm" {
		cmd.Aliases = []string{"rmi", "remove"}
	}
	if !a.calls(cmd) {
		return cmd
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "Force removal of the image")
	cmd.Flags().BoolVar(&noPrune, "no-prune", false, "Do not delete untagged parents (there are none)")
	return cmd
}

// removeImages removes images by their names or IDs, and gives back the space of those that are gone.
func (a *app) removeImages(ctx context.Context, s *store.Store, args []string, force bool) error {
	var all error
	deleted := false
	for _, name := range args {
		gone, err := a.removeImage(ctx, s, name, force)
		if force && errors.Is(err, store.ErrNotFound) {
			fmt.Fprintf(a.stderr, "No such image: %s\n", name)
			err = nil
		}
		deleted = deleted || gone
		all = errors.Join(all, err)
	}
	if deleted {
		_, err := s.Collect(ctx)
		all = errors.Join(all, err)
	}
	return all
}

// removal is what removing an image means.
type removal struct {
	img   store.Image
	names []string // to be removed, of those that the image has
	keeps bool     // the image keeps other names
	bare  bool     // a running container uses it: it stays without a name
}

// removeImage removes one name of an image, or an image by its ID, and prints what Docker prints. It
// reports whether the image is gone.
func (a *app) removeImage(ctx context.Context, s *store.Store, arg string, force bool) (bool, error) {
	r, err := planRemoval(ctx, s, arg, force)
	if err != nil {
		return false, err
	}
	remove := func() error { return s.RemoveImages(ctx, r.names...) }
	if r.bare && !r.keeps {
		remove = func() error { return s.UntagImage(ctx, r.img) }
	}
	if err := remove(); err != nil {
		return false, err
	}
	for _, name := range r.names {
		if name != r.img.ID.String() {
			fmt.Fprintf(a.stdout, "Untagged: %s\n", familiar(name))
		}
	}
	if r.keeps || r.bare {
		return false, nil
	}
	_, err = fmt.Fprintf(a.stdout, "Deleted: %s\n", r.img.ID)
	return true, err
}

// planRemoval finds out what is to be removed and whether that may be. The rules and words are those of
// Docker's engine: a name may go while another one is left; an image that containers use needs force; one
// that a running container uses cannot be deleted, but lose its name.
func planRemoval(ctx context.Context, s *store.Store, arg string, force bool) (*removal, error) {
	img, err := findImage(ctx, s, arg)
	if err != nil {
		return nil, err
	}
	names, err := namesOf(ctx, s, img)
	if err != nil {
		return nil, err
	}
	user, running, err := usedBy(ctx, s, img)
	if err != nil {
		return nil, err
	}
	if full, err := store.NormalizeName(arg); err == nil && full == img.Name {
		r := &removal{img: img, names: []string{img.Name}, keeps: len(names) > 1, bare: running}
		if !r.keeps && user != "" && !force {
			return nil, fmt.Errorf("conflict: unable to remove repository reference %q (must force) - container %s is using its referenced image %s",
				arg, shortID(user), shortID(img.ID.String()))
		}
		return r, nil
	}
	conflict := func(how, why string) error {
		return fmt.Errorf("conflict: unable to delete %s (%s) - %s", shortID(img.ID.String()), how, why)
	}
	switch {
	case running:
		return nil, conflict("cannot be forced", "image is being used by running container "+shortID(user))
	case len(names) > 1 && !force:
		return nil, conflict("must be forced", "image is referenced in multiple repositories")
	case user != "" && !force:
		return nil, conflict("must be forced", "image is being used by stopped container "+shortID(user))
	}
	return &removal{img: img, names: names}, nil
}

// namesOf lists the names under which the store has an image.
func namesOf(ctx context.Context, s *store.Store, img store.Image) ([]string, error) {
	all, err := s.Images(ctx)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, i := range all {
		if i.ID == img.ID {
			names = append(names, i.Name)
		}
	}
	return names, nil
}

// usedBy returns the ID of a container that is made of an image, a running one if there is one; "" for none.
func usedBy(ctx context.Context, s *store.Store, img store.Image) (id string, running bool, err error) {
	containers, err := s.Containers(ctx)
	if err != nil {
		return "", false, err
	}
	m := container.Manager{Store: s}
	for _, c := range containers {
		if c.ImageID != img.ID {
			continue
		}
		id = c.ID
		if m.State(c.ID).Running {
			return id, true, nil
		}
	}
	return id, false, nil
}

// findContainer is store.Container with a message for people.
func findContainer(ctx context.Context, s *store.Store, name string) (store.Container, error) {
	c, err := s.Container(ctx, name)
	if errors.Is(err, store.ErrNotFound) {
		return c, &notFoundError{"No such container: " + name, err}
	}
	return c, err
}

// notFoundError says in Docker's words what the store does not have.
type notFoundError struct {
	message string
	err     error
}

func (e *notFoundError) Error() string { return e.message }
func (e *notFoundError) Unwrap() error { return e.err }
