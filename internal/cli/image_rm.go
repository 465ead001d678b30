package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/slipway-build/slipway/internal/store"
)

func newImageRmCmd(a *app, use string) *cobra.Command {
	var force, noPrune bool
	cmd := &cobra.Command{
		Use:   use + " [OPTIONS] IMAGE [IMAGE...]",
		Short: "Remove images",
		Args:  minArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.Store()
			if err != nil {
				return err
			}
			var all error
			for _, name := range args {
				err := a.removeImage(cmd.Context(), s, name, force)
				if force && errors.Is(err, store.ErrNotFound) {
					fmt.Fprintf(a.stderr, "No such image: %s\n", name)
					err = nil
				}
				all = errors.Join(all, err)
			}
			return all
		},
	}
	if use == "rm" {
		cmd.Aliases = []string{"remove"}
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "Remove it although a container uses it, or it has several names")
	cmd.Flags().BoolVar(&noPrune, "no-prune", false, "")
	cmd.Flags().Lookup("no-prune").Hidden = true
	return cmd
}

// removeImage removes one name of an image, or an image by its ID. Prints what Docker prints.
func (a *app) removeImage(ctx context.Context, s *store.Store, arg string, force bool) error {
	img, err := findImage(ctx, s, arg)
	if err != nil {
		return err
	}
	all, err := s.Images(ctx)
	if err != nil {
		return err
	}
	var names []string // of the same image
	for _, i := range all {
		if i.ID == img.ID {
			names = append(names, i.Name)
		}
	}
	remove := []string{img.Name}
	if byID(arg, img) {
		if len(names) > 1 && !force {
			return fmt.Errorf("image %s has several names (%s): remove one of them, or all with --force", arg, strings.Join(names, ", "))
		}
		remove = names
	}
	if len(remove) == len(names) && !force {
		if err := unused(ctx, s, arg, img); err != nil {
			return err
		}
	}
	for _, name := range remove {
		if err := s.RemoveImages(ctx, name); err != nil {
			return err
		}
		if name != img.ID.String() {
			repo, tag := store.FamiliarName(name)
			fmt.Fprintf(a.stdout, "Untagged: %s:%s\n", repo, tag)
		}
	}
	if len(remove) == len(names) {
		fmt.Fprintf(a.stdout, "Deleted: %s\n", img.ID)
	}
	return nil
}

// byID reports whether an argument named an image by its ID and not by its name.
func byID(arg string, img store.Image) bool {
	name, err := store.NormalizeName(arg)
	return err != nil || name != img.Name
}

// unused checks that no container is made of an image.
func unused(ctx context.Context, s *store.Store, arg string, img store.Image) error {
	containers, err := s.Containers(ctx)
	if err != nil {
		return err
	}
	for _, c := range containers {
		if c.ImageID == img.ID {
			return fmt.Errorf("image %s is used by container %s (%s): remove that first, or use --force", arg, c.Name, shortID(c.ID))
		}
	}
	return nil
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
