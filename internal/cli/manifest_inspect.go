package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/spf13/cobra"

	"github.com/slipway-build/slipway/internal/manifestlist"
)

type manifestInspectFlags struct{ verbose, insecure bool }

func newManifestInspectCmd(a *app) *cobra.Command {
	var flags manifestInspectFlags
	cmd := &cobra.Command{
		Use:   "inspect [OPTIONS] [MANIFEST_LIST] MANIFEST",
		Short: "Display an image manifest, or manifest list",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) < 1 || len(args) > 2 {
				return usageErrorf(cmd, 1, "'%s' requires at least 1 and at most 2 arguments", cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 2 {
				return a.manifestInspectIn(args[0], args[1], flags.verbose)
			}
			return a.manifestInspect(cmd.Context(), args[0], flags)
		},
	}
	if a.calls(cmd) {
		insecureFlag(cmd, &flags.insecure)
		cmd.Flags().BoolVarP(&flags.verbose, "verbose", "v", false, "Output additional info including layers and platform")
	}
	return cmd
}

// manifestInspectIn shows an image of a local list.
func (a *app) manifestInspectIn(list, image string, verbose bool) error {
	ref, err := parseManifestRef(image)
	if err != nil {
		return err
	}
	listRef, err := parseManifestRef(list)
	if err != nil {
		return err
	}
	img, err := manifestLists().Image(listRef, ref)
	if err != nil {
		return err
	}
	return a.printManifest(img, verbose)
}

// manifestInspect shows a local list, or what a registry has.
func (a *app) manifestInspect(ctx context.Context, name string, flags manifestInspectFlags) error {
	ref, err := parseManifestRef(name)
	if err != nil {
		return err
	}
	images, err := manifestLists().List(ref)
	if err == nil {
		return a.printManifestList(ref, images, flags.verbose)
	}
	if !errdefs.IsNotFound(err) {
		return err
	}
	img, err := fetchManifest(ctx, a.registry(), ref, flags.insecure)
	if err == nil {
		return a.printManifest(img, flags.verbose)
	}
	var list *manifestlist.ErrIsList
	if !errors.As(err, &list) {
		return err
	}
	entries, err := list.Entries()
	if err == nil && flags.verbose {
		err = manifestlist.Load(ctx, a.registry(), entries)
	}
	if err != nil {
		return err
	}
	return a.printManifestList(ref, entries, flags.verbose)
}

func (a *app) printManifest(img manifestlist.Image, verbose bool) error {
	if verbose {
		return a.printTabbed(img)
	}
	var text bytes.Buffer
	if err := json.Indent(&text, img.Raw, "", "\t"); err != nil {
		return err
	}
	_, err := fmt.Fprintln(a.stdout, text.String())
	return err
}

// printManifestList prints a list as it would be pushed, or its images.
func (a *app) printManifestList(ref reference.Named, images []manifestlist.Image, verbose bool) error {
	if verbose {
		return a.printTabbed(images)
	}
	_, raw, err := manifestlist.Marshal(ref, images)
	if err == nil {
		_, err = fmt.Fprintln(a.stdout, string(raw))
	}
	return err
}

func (a *app) printTabbed(v any) error {
	text, err := json.MarshalIndent(v, "", "\t")
	if err == nil {
		_, err = fmt.Fprintln(a.stdout, string(text))
	}
	return err
}
