package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"github.com/slipway-build/slipway/internal/container"
	"github.com/slipway-build/slipway/internal/store"
)

func newInspectCmd(a *app) *cobra.Command {
	return inspectCmd(a, "inspect NAME|ID [NAME|ID...]", "Show containers or images as JSON", func(ctx context.Context, s *store.Store, name string) (any, error) {
		c, err := inspectContainer(ctx, s, name)
		if !errors.Is(err, store.ErrNotFound) {
			return c, err
		}
		i, err := inspectImage(ctx, s, name)
		if errors.Is(err, store.ErrNotFound) {
			return nil, &notFoundError{"No such object: " + name, err}
		}
		return i, err
	})
}

func newImageInspectCmd(a *app) *cobra.Command {
	return inspectCmd(a, "inspect IMAGE [IMAGE...]", "Show images as JSON", inspectImage)
}

func newContainerInspectCmd(a *app) *cobra.Command {
	return inspectCmd(a, "inspect CONTAINER [CONTAINER...]", "Show containers as JSON", inspectContainer)
}

func inspectCmd(a *app, use, short string, inspect func(context.Context, *store.Store, string) (any, error)) *cobra.Command {
	var format, kind string
	cmd := &cobra.Command{
		Use: use, Short: short, Args: minArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.Store()
			if err != nil {
				return err
			}
			switch kind {
			case "image":
				inspect = inspectImage
			case "container":
				inspect = inspectContainer
			}
			objects := []any{}
			var all error
			for _, name := range args {
				o, err := inspect(cmd.Context(), s, name)
				if err != nil {
					all = errors.Join(all, err)
					continue
				}
				objects = append(objects, o)
			}
			return errors.Join(printInspected(a.stdout, format, objects), all)
		},
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", `"json", or a Go template, such as "{{.Id}}"`)
	cmd.Flags().StringVar(&kind, "type", "", `"image" or "container"`)
	return cmd
}

// inspectImage describes an image with Docker's names.
func inspectImage(ctx context.Context, s *store.Store, name string) (any, error) {
	img, err := findImage(ctx, s, name)
	if err != nil {
		return nil, err
	}
	data, err := s.ReadBlob(ctx, img.ID)
	if err != nil {
		return nil, err
	}
	var config ocispec.Image
	var raw map[string]any // with what only Docker has: healthcheck, onbuild, shell
	if err := errors.Join(json.Unmarshal(data, &config), json.Unmarshal(data, &raw)); err != nil {
		return nil, fmt.Errorf("decoding the config of image %s: %w", name, err)
	}
	all, err := s.Images(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.Measure(ctx, &img); err != nil {
		return nil, err
	}
	tags, digests := []string{}, []string{}
	for _, i := range all {
		if i.ID == img.ID && i.Tagged() {
			repo, tag := store.FamiliarName(i.Name)
			tags = append(tags, repo+":"+tag)
			digests = append(digests, repo+"@"+i.Manifest.Digest.String())
		}
	}
	var created time.Time
	if config.Created != nil {
		created = *config.Created
	}
	layers := []string{}
	for _, d := range config.RootFS.DiffIDs {
		layers = append(layers, d.String())
	}
	return map[string]any{
		"Id": img.ID.String(), "RepoTags": tags, "RepoDigests": digests, "Created": created.Format(time.RFC3339Nano),
		"Author": config.Author, "Config": raw["config"], "Architecture": config.Architecture, "Variant": config.Variant,
		"Os": config.OS, "Size": img.Size, "Descriptor": img.Manifest,
		"RootFS": map[string]any{"Type": "layers", "Layers": layers},
	}, nil
}

// inspectContainer describes a container with Docker's names.
func inspectContainer(ctx context.Context, s *store.Store, name string) (any, error) {
	c, err := findContainer(ctx, s, name)
	if err != nil {
		return nil, err
	}
	config, err := container.ReadConfig(c)
	if err != nil {
		return nil, err
	}
	m := container.Manager{Store: s}
	state := m.State(c.ID)
	path, args := "", []string{}
	if len(config.Args) > 0 {
		path, args = config.Args[0], config.Args[1:]
	}
	return map[string]any{
		"Id": c.ID, "Name": "/" + c.Name, "Created": c.Created.Format(time.RFC3339Nano), "Image": c.ImageID.String(),
		"Path": path, "Args": args,
		"State": map[string]any{
			"Status": statusWord(state), "Running": state.Running, "ExitCode": state.ExitCode, "Error": state.Error,
			"StartedAt": state.Started.Format(time.RFC3339Nano), "FinishedAt": state.Finished.Format(time.RFC3339Nano),
		},
		"Config": map[string]any{
			"Image": c.Image, "Env": config.Env, "Cmd": config.Args, "WorkingDir": config.Cwd, "User": config.User,
			"Hostname": config.Hostname, "Tty": config.Terminal, "OpenStdin": config.OpenStdin, "Labels": config.Labels,
			"StopSignal": config.StopSignal,
		},
		"HostConfig": map[string]any{"NetworkMode": string(config.Network), "Privileged": config.Privileged},
	}, nil
}

// statusWord is a container's state in one word of Docker's.
func statusWord(s container.State) string {
	switch {
	case s.Running:
		return "running"
	case s.Started.IsZero():
		return "created"
	}
	return "exited"
}
