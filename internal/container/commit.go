package container

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/export"
	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/load"
	"github.com/slipway-build/slipway/internal/store"
)

// CommitOptions are what an image of a container has besides its files.
type CommitOptions struct {
	Name            string // normalised, or ""
	Author, Comment string
	Changes         []string             // Dockerfile instructions
	Config          *ocispec.ImageConfig // what it has in the place of what the container has, where it says something, before the changes; may be nil
}

// over puts what a config says over what an image is to have, by Docker's rules.
func over(runs *ocispec.ImageConfig, c *ocispec.ImageConfig) {
	if c == nil {
		return
	}
	for _, word := range []struct {
		to   *string
		text string
	}{{&runs.User, c.User}, {&runs.WorkingDir, c.WorkingDir}, {&runs.StopSignal, c.StopSignal}} {
		if word.text != "" {
			*word.to = word.text
		}
	}
	if c.Entrypoint != nil {
		runs.Entrypoint, runs.Cmd = c.Entrypoint, nil
	}
	if len(c.Cmd) > 0 {
		runs.Cmd = c.Cmd
	}
	var env []string
	for _, kv := range c.Env {
		if strings.Contains(kv, "=") { // without a value it says nothing
			env = append(env, kv)
		}
	}
	runs.Env = MergeEnv(runs.Env, env)
	runs.Labels, runs.ExposedPorts, runs.Volumes = union(runs.Labels, c.Labels), union(runs.ExposedPorts, c.ExposedPorts), union(runs.Volumes, c.Volumes)
}

// union has the entries of both; those of the second count where both have one. It is nil without any.
func union[V any](a, b map[string]V) map[string]V {
	if len(a)+len(b) == 0 {
		return nil
	}
	all := maps.Clone(a)
	if all == nil {
		all = map[string]V{}
	}
	maps.Copy(all, b)
	return all
}

// Commit makes an image of a container: the layers of its own image, its writable layer if there is
// anything in it, and a config of what it runs, as Docker's engine does (moby, daemon/commit.go).
func (m *Manager) Commit(ctx context.Context, c store.Container, opts CommitOptions) (store.Image, error) {
	img, err := m.commit(ctx, c, opts)
	if err != nil {
		return img, fmt.Errorf("committing container %s: %w", c.Name, err)
	}
	return img, nil
}

func (m *Manager) commit(ctx context.Context, c store.Container, opts CommitOptions) (img store.Image, err error) {
	config, err := ReadConfig(c)
	if err != nil {
		return img, err
	}
	now := time.Now().UTC()
	src := export.Source{Snapshot: slices.Clone(c.Snapshot)}
	own, err := m.commitLayer(ctx, c)
	if err != nil {
		return img, err
	}
	if own != "" {
		src.Snapshot = append(src.Snapshot, own)
	}
	base, err := m.Store.ReadBlob(ctx, c.ImageID)
	if err != nil {
		return img, fmt.Errorf("reading the config of its image: %w", err)
	}
	var p ocispec.Platform
	if src.Config, p, err = commitConfig(base, config, opts, ocispec.History{
		Created: &now, Author: opts.Author, Comment: opts.Comment, CreatedBy: strings.Join(config.Cmd(), " "), EmptyLayer: own == "",
	}); err != nil {
		return img, err
	}
	src.Platform = p
	a, err := export.Assemble(ctx, m.Store, []export.Source{src}, export.Options{})
	if err != nil {
		return img, err
	}
	made := a.Images[0]
	img = store.Image{Name: opts.Name, Manifest: made.Manifest, ID: made.Config.Digest, Created: made.Created, Layers: made.Snapshot, Size: made.Size}
	if img.Name == "" {
		img.Name = img.ID.String()
	}
	return img, m.Store.SetImages(ctx, img)
}

// commitLayer copies the writable layer into one of the store. It is "" when nothing was written.
func (m *Manager) commitLayer(ctx context.Context, c store.Container) (id layer.ID, err error) {
	entries, err := os.ReadDir(m.upper(c.ID))
	if err != nil || len(entries) == 0 {
		return "", err
	}
	draft, err := m.Store.NewLayer()
	if err != nil {
		return "", err
	}
	defer draft.Abort()
	w, err := m.Store.DirWriter(draft.FS)
	if err != nil {
		return "", err
	}
	err = layer.WriteLive(m.upperTree(c), &cancelled{w, ctx})
	if err := errors.Join(err, w.Close()); err != nil {
		return "", err
	}
	return draft.Commit(ctx)
}

// commitConfig is the config of an image with what a container runs in the place of what the image
// ran, changed by instructions, and with one more entry of history.
func commitConfig(base []byte, config *Config, opts CommitOptions, entry ocispec.History) ([]byte, ocispec.Platform, error) {
	var old dockerspec.DockerOCIImage
	raw := map[string]json.RawMessage{}
	if err := errors.Join(json.Unmarshal(base, &old), json.Unmarshal(base, &raw)); err != nil {
		return nil, old.Platform, fmt.Errorf("decoding the config of its image: %w", err)
	}
	runs := dockerspec.DockerOCIImageConfig{
		ImageConfig: ocispec.ImageConfig{
			User: config.User, ExposedPorts: old.Config.ExposedPorts, Env: config.Env, Entrypoint: config.Entrypoint, Cmd: config.Cmd(),
			Volumes: old.Config.Volumes, WorkingDir: config.Cwd, Labels: config.Labels, StopSignal: config.StopSignal,
		},
		DockerOCIImageConfigExt: dockerspec.DockerOCIImageConfigExt{Healthcheck: old.Config.Healthcheck},
	}
	if len(runs.Cmd) == 0 {
		runs.Cmd = nil
	}
	if config.Cwd == "/" && old.Config.WorkingDir == "" {
		runs.WorkingDir = "" // a default of ours
	}
	over(&runs.ImageConfig, opts.Config)
	runs, err := load.ApplyChanges(runs, opts.Changes)
	if err != nil {
		return nil, old.Platform, err
	}
	for key, value := range map[string]any{"config": runs, "history": append(old.History, entry), "author": opts.Author, "created": entry.Created} {
		data, err := json.Marshal(value)
		if err != nil {
			return nil, old.Platform, err
		}
		raw[key] = data
	}
	// What belongs to the build of the other image.
	for key := range raw {
		if strings.HasPrefix(key, "moby.buildkit.") || key == "container" || key == "container_config" || key == "docker_version" ||
			key == "author" && opts.Author == "" {
			delete(raw, key)
		}
	}
	data, err := json.Marshal(raw)
	return data, old.Platform, err
}
