package cli

import (
	"context"
	"time"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"github.com/slipway-build/slipway/internal/store"
	"github.com/slipway-build/slipway/internal/view"
)

func newImageInspectCmd(a *app) *cobra.Command {
	var format, platform string
	cmd := &cobra.Command{
		Use:   "inspect [OPTIONS] IMAGE [IMAGE...]",
		Short: "Display detailed information on one or more images",
		Args:  minArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.Store()
			if err != nil {
				return err
			}
			p, err := parsePlatform(platform)
			if err != nil {
				return err
			}
			return inspectAll(a.stdout, format, args, func(name string) (any, error) { return inspectImage(cmd.Context(), s, name, p) })
		},
	}
	if !a.calls(cmd) {
		return cmd
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", inspectFormatHelp)
	cmd.Flags().StringVar(&platform, "platform", "", `Inspect a specific platform of the multi-platform image, such as "linux/amd64"`)
	return cmd
}

// inspectedImage is what Docker's API says of an image (image.InspectResponse), with its names and its order.
type inspectedImage struct {
	ID            string `json:"Id"`
	RepoTags      []string
	RepoDigests   []string
	Parent        string
	Comment       string
	Created       string
	DockerVersion string
	Author        string
	Config        *dockerspec.DockerOCIImageConfig
	Architecture  string
	Variant       string `json:",omitempty"`
	Os            string
	OsVersion     string `json:",omitempty"`
	Size          int64
	GraphDriver   inspectedDriver
	RootFS        inspectedRootFS
	Metadata      inspectedMetadata
	Descriptor    ocispec.Descriptor
}

type inspectedRootFS struct {
	Type   string
	Layers []string `json:",omitempty"`
}

type inspectedMetadata struct{ LastTagTime time.Time }

// inspectImage describes an image, or what it is for one platform.
func inspectImage(ctx context.Context, s *store.Store, name string, platform *ocispec.Platform) (any, error) {
	img, err := view.UseImage(ctx, s, name)
	if err != nil {
		return nil, err
	}
	target, whole := img.Target(), img
	if platform != nil {
		if img, err = view.ForPlatform(ctx, s, img, *platform); err != nil {
			return nil, err
		}
		target = img.Manifest
	}
	config, err := view.ImageConfig(ctx, s, img.ID)
	if err != nil {
		return nil, err
	}
	if err := s.Measure(ctx, &img); err != nil {
		return nil, err
	}
	out := &inspectedImage{
		ID: img.ID.String(), Comment: lastComment(config.History), Author: config.Author, Config: &config.Config,
		Architecture: config.Architecture, Variant: config.Variant, Os: config.OS, OsVersion: config.OSVersion, Size: img.Size,
		GraphDriver: inspectedDriver{Name: "overlayfs"}, RootFS: inspectedRootFS{Type: "layers"}, Descriptor: target,
	}
	if config.Created != nil {
		out.Created = config.Created.UTC().Format(time.RFC3339Nano)
	}
	for _, d := range config.RootFS.DiffIDs {
		out.RootFS.Layers = append(out.RootFS.Layers, d.String())
	}
	return out, out.addNames(ctx, s, whole)
}

// addNames fills in what the image is called.
func (o *inspectedImage) addNames(ctx context.Context, s *store.Store, img store.Image) error {
	sum, err := view.NamesOf(ctx, s, img)
	o.RepoTags, o.RepoDigests, o.Metadata.LastTagTime = sum.Tags, sum.Digests, sum.Named
	return err
}

// lastComment is the comment of the newest layer, which Docker shows as the image's.
func lastComment(history []ocispec.History) string {
	if len(history) == 0 {
		return ""
	}
	return history[len(history)-1].Comment
}
