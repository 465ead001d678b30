package cli

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	dockerconfig "github.com/docker/cli/cli/config"
	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/slipway-build/slipway/internal/manifestlist"
	"github.com/slipway-build/slipway/internal/registry"
)

func newManifestCmd(a *app) *cobra.Command {
	return group("manifest", "Manage image manifests and manifest lists",
		newManifestAnnotateCmd(a), newManifestCreateCmd(a), newManifestInspectCmd(a), newManifestPushCmd(a), newManifestRmCmd(a))
}

// manifestLists are where docker has them: beside its config.json.
func manifestLists() manifestlist.Store {
	return manifestlist.Store{Dir: filepath.Join(dockerconfig.Dir(), "manifests")}
}

// parseManifestRef reads a reference, which gets the tag latest if it has neither tag nor digest.
func parseManifestRef(name string) (reference.Named, error) {
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return nil, fmt.Errorf("invalid reference format: %q: %w", name, err)
	}
	if _, ok := ref.(reference.Digested); ok {
		return ref, nil
	}
	return reference.TagNameOnly(ref), nil
}

// insecureFlag is --insecure of the commands that ask a registry.
func insecureFlag(cmd *cobra.Command, value *bool) {
	cmd.Flags().BoolVar(value, "insecure", false, "Allow communication with an insecure registry")
}

type manifestCreateFlags struct{ amend, insecure bool }

func newManifestCreateCmd(a *app) *cobra.Command {
	var flags manifestCreateFlags
	cmd := &cobra.Command{
		Use:   "create [OPTIONS] MANIFEST_LIST MANIFEST [MANIFEST...]",
		Short: "Create a local manifest list for annotating and pushing to a registry",
		Args:  minArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.manifestCreate(cmd.Context(), args[0], args[1:], flags)
		},
	}
	if a.calls(cmd) {
		cmd.Flags().BoolVarP(&flags.amend, "amend", "a", false, "Amend an existing manifest list")
		insecureFlag(cmd, &flags.insecure)
	}
	return cmd
}

// maxSources is the number of images whose manifests are read at the same time.
const maxSources = 8

func (a *app) manifestCreate(ctx context.Context, name string, sources []string, flags manifestCreateFlags) error {
	list, err := parseManifestRef(name)
	if err != nil {
		return fmt.Errorf("error parsing name for manifest list %s: %w", name, err)
	}
	lists := manifestLists()
	switch _, err := lists.List(list); {
	case errdefs.IsNotFound(err):
	case err != nil:
		return err
	case !flags.amend:
		return errors.New("refusing to amend an existing manifest list with no --amend flag")
	}
	c := a.registry() // once, before several ask for it
	images := make([]manifestlist.Image, len(sources))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(maxSources)
	for n, source := range sources {
		g.Go(func() error {
			ref, err := parseManifestRef(source)
			if err != nil {
				return err
			}
			images[n], err = lists.Image(list, ref) // what was annotated stays so
			if errdefs.IsNotFound(err) {
				images[n], err = fetchManifest(ctx, c, ref, flags.insecure)
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if err := lists.Save(list, images...); err != nil {
		return err
	}
	_, err = fmt.Fprintln(a.stdout, "Created manifest list", list)
	return err
}

// fetchManifest reads an image's manifest from its registry.
func fetchManifest(ctx context.Context, c *registry.Client, ref reference.Named, insecure bool) (manifestlist.Image, error) {
	if insecure {
		c.AllowInsecure(reference.Domain(ref))
	}
	img, err := manifestlist.Fetch(ctx, c, ref)
	if errdefs.IsNotFound(err) || errdefs.IsUnauthorized(err) {
		err = fmt.Errorf("no such manifest: %s: %w", ref, err) // scripts look for these words
	}
	return img, err
}

type manifestAnnotateFlags struct {
	os, arch, variant, osVersion string
	osFeatures                   []string
}

func newManifestAnnotateCmd(a *app) *cobra.Command {
	var flags manifestAnnotateFlags
	cmd := &cobra.Command{
		Use:   "annotate [OPTIONS] MANIFEST_LIST MANIFEST",
		Short: "Add additional information to a local image manifest",
		Args:  exactArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			return manifestAnnotate(args[0], args[1], flags)
		},
	}
	if !a.calls(cmd) {
		return cmd
	}
	f := cmd.Flags()
	f.StringVar(&flags.arch, "arch", "", "Set architecture")
	f.StringVar(&flags.os, "os", "", "Set operating system")
	f.StringSliceVar(&flags.osFeatures, "os-features", nil, "Set operating system feature")
	f.StringVar(&flags.osVersion, "os-version", "", "Set operating system version")
	f.StringVar(&flags.variant, "variant", "", "Set architecture variant")
	return cmd
}

func manifestAnnotate(list, image string, flags manifestAnnotateFlags) error {
	listRef, err := parseManifestRef(list)
	if err != nil {
		return fmt.Errorf("annotate: error parsing name for manifest list %s: %w", list, err)
	}
	ref, err := parseManifestRef(image)
	if err != nil {
		return fmt.Errorf("annotate: error parsing name for manifest %s: %w", image, err)
	}
	img, err := manifestLists().Image(listRef, ref)
	if errdefs.IsNotFound(err) {
		return fmt.Errorf("manifest for image %s does not exist in %s", image, list)
	}
	if err != nil {
		return err
	}
	if err := img.Annotate(manifestlist.Annotation{
		OS: flags.os, Architecture: flags.arch, Variant: flags.variant, OSVersion: flags.osVersion, OSFeatures: flags.osFeatures,
	}); err != nil {
		return err
	}
	return manifestLists().Save(listRef, img)
}

type manifestPushFlags struct{ purge, insecure bool }

func newManifestPushCmd(a *app) *cobra.Command {
	var flags manifestPushFlags
	cmd := &cobra.Command{
		Use:   "push [OPTIONS] MANIFEST_LIST",
		Short: "Push a manifest list to a repository",
		Args:  exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.manifestPush(cmd.Context(), args[0], flags)
		},
	}
	if a.calls(cmd) {
		insecureFlag(cmd, &flags.insecure)
		cmd.Flags().BoolVarP(&flags.purge, "purge", "p", false, "Remove the local manifest list after push")
	}
	return cmd
}

func (a *app) manifestPush(ctx context.Context, name string, flags manifestPushFlags) error {
	list, err := parseManifestRef(name)
	if err != nil {
		return err
	}
	images, err := manifestLists().List(list)
	if err != nil {
		return err
	}
	if len(images) == 0 {
		return fmt.Errorf("%s not found", list)
	}
	if flags.insecure {
		a.registry().AllowInsecure(reference.Domain(list))
	}
	digest, err := manifestlist.Push(ctx, a.registry(), list, images, func(ref string, d digest.Digest) {
		fmt.Fprintf(a.stdout, "Pushed ref %s with digest: %s\n", ref, d)
	})
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(a.stdout, digest); err != nil || !flags.purge {
		return err
	}
	return manifestLists().Remove(list)
}

func newManifestRmCmd(_ *app) *cobra.Command {
	return &cobra.Command{
		Use:   "rm MANIFEST_LIST [MANIFEST_LIST...]",
		Short: "Delete one or more manifest lists from local storage",
		Args:  minArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			var errs []error
			for _, name := range args {
				list, err := parseManifestRef(name)
				if err == nil {
					err = manifestLists().Remove(list)
				}
				errs = append(errs, err)
			}
			return errors.Join(errs...)
		},
	}
}
