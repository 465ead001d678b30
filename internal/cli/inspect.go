package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/slipway-build/slipway/internal/store"
	"github.com/slipway-build/slipway/internal/view"
)

// objectTypes are the types of objects that Docker's `inspect --type` knows.
var objectTypes = []string{"config", "container", "image", "network", "node", "plugin", "secret", "service", "task", "volume"}

func newInspectCmd(a *app) *cobra.Command {
	var format, kind string
	var size bool
	cmd := &cobra.Command{
		Use:   "inspect [OPTIONS] NAME|ID [NAME|ID...]",
		Short: "Return low-level information on containers and images",
		Args:  minArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case kind == "" && cmd.Flags().Changed("type"):
				return fmt.Errorf(`type is empty: must be one of "%s"`, strings.Join(objectTypes, `", "`))
			case kind != "" && !slices.Contains(objectTypes, kind):
				return fmt.Errorf(`unknown type: %q: must be one of "%s"`, kind, strings.Join(objectTypes, `", "`))
			}
			s, err := a.Store()
			if err != nil {
				return err
			}
			return inspectAll(a.stdout, format, args, func(name string) (any, error) { return a.inspectAny(cmd.Context(), s, name, kind, size) })
		},
	}
	if !a.calls(cmd) {
		return cmd
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", inspectFormatHelp)
	cmd.Flags().StringVar(&kind, "type", "", "Only inspect objects of the given type")
	cmd.Flags().BoolVarP(&size, "size", "s", false, "Display total file sizes if the type is container")
	return cmd
}

// inspectAny describes the container, or else the image, that has the name. kind, unless it is "", is the
// only type that is looked for.
func (a *app) inspectAny(ctx context.Context, s *store.Store, name, kind string, size bool) (any, error) {
	switch kind {
	case "container":
		return inspectContainer(ctx, s, name, size)
	case "image":
		return inspectImage(ctx, s, name, nil)
	case "":
		c, err := inspectContainer(ctx, s, name, size)
		if !errors.Is(err, store.ErrNotFound) {
			return c, err
		}
		i, err := inspectImage(ctx, s, name, nil)
		if errors.Is(err, store.ErrNotFound) {
			return nil, &view.NotFoundError{Message: "No such object: " + name, Err: err}
		}
		return i, err
	}
	return nil, &view.NotFoundError{Message: "No such " + kind + ": " + name, Err: store.ErrNotFound}
}
