package view

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/container"
	"github.com/slipway-build/slipway/internal/store"
)

// ContainerFilter chooses containers. Each field that is not empty has to let a container through; the meaning is that of
// Docker's `ps --filter` (moby, daemon/list.go and daemon/prune.go).
type ContainerFilter struct {
	All   bool // not only those that run; so does a number of the newest, or a state
	Limit int  // the newest ones only, unless it is 0

	IDs, Names        []string                // one of them has to be its own, or match as a regular expression
	Labels, NotLabels []string                // KEY or KEY=VALUE: it has all of the ones, and not all of the others
	States            []string                // one of which it has to be in
	Exited            []int                   // it has ended with one of these codes
	Before, Since     []string                // containers, the last of which has to be newer, or older
	Until             []time.Time             // it is older than all of them
	Ancestors         []string                // images, of one of which it is made, or of one that was built on it
	Networks          []string                // one of which it has
	Volumes           []string                // a mount has one of these as its source, a volume by its name, or is at one
	Wanted            func(c *Container) bool // lets it through as well; nil is everything
}

// containerStates are the states of Docker, of which some never occur here.
var containerStates = []string{"created", "running", "paused", "restarting", "removing", "exited", "dead"}

// ParseContainerFilter gives the keys of Docker's filters of containers their meaning.
func ParseContainerFilter(args Args) (ContainerFilter, error) {
	f := ContainerFilter{
		IDs: args["id"], Names: args["name"], Labels: args["label"], NotLabels: args["label!"], States: args["status"],
		Before: args["before"], Since: args["since"], Ancestors: args["ancestor"], Networks: args["network"], Volumes: args["volume"],
	}
	for _, v := range f.States {
		if !slices.Contains(containerStates, v) {
			return f, fmt.Errorf("invalid filter 'status=%s': it can be %s", v, strings.Join(containerStates, ", "))
		}
	}
	for _, v := range args["exited"] {
		n, err := strconv.Atoi(v)
		if err != nil {
			return f, fmt.Errorf("invalid filter 'exited=%s': it is no exit code", v)
		}
		f.Exited = append(f.Exited, n)
	}
	if len(args["until"]) > 1 {
		return f, errors.New("more than one until filter specified")
	}
	var err error
	f.Until, err = args.times()
	return f, err
}

// Container is a container with its state and what it runs.
type Container struct {
	store.Container
	State  container.State
	Config *container.Config
}

// Containers returns the containers that a filter lets through, the newest first.
func Containers(ctx context.Context, m *container.Manager, f ContainerFilter) ([]Container, error) {
	rows, err := chooseContainers(ctx, m, f)
	if err != nil {
		return nil, err
	}
	for _, c := range rows {
		if c.Config == nil {
			_, err := container.ReadConfig(c.Container)
			return nil, err
		}
	}
	return rows, nil
}

// chooseContainers is [Containers], where one whose record is damaged has no Config, and no labels.
func chooseContainers(ctx context.Context, m *container.Manager, f ContainerFilter) ([]Container, error) {
	tests, err := f.tests(ctx, m)
	if err != nil {
		return nil, err
	}
	all, err := m.Store.Containers(ctx)
	if err != nil {
		return nil, err
	}
	ended := f.All || f.Limit > 0 || len(f.States) > 0
	var rows []Container
	for _, c := range all {
		row := Container{Container: c, State: m.State(c.ID)}
		if row.State.Lost() {
			if err := m.Settle(ctx, c); err != nil {
				return nil, err
			}
			row.State = m.State(c.ID)
			if row.State.Started.IsZero() { // it was to go when it ends
				continue
			}
		}
		if !ended && !row.State.Running {
			continue
		}
		row.Config, _ = container.ReadConfig(c)
		if slices.ContainsFunc(tests, func(test containerTest) bool { return !test(&row) }) {
			continue
		}
		if rows = append(rows, row); len(rows) == f.Limit {
			break
		}
	}
	return rows, nil
}

// containerTest tells whether a container passes a part of a filter.
type containerTest func(*Container) bool

// tests are the parts of a filter. The containers and images that it names are looked up.
func (f *ContainerFilter) tests(ctx context.Context, m *container.Manager) (all []containerTest, err error) {
	s := m.Store
	add := func(asked bool, test containerTest) {
		if asked {
			all = append(all, test)
		}
	}
	before, err := created(ctx, s, f.Before)
	if err != nil {
		return nil, err
	}
	since, err := created(ctx, s, f.Since)
	if err != nil {
		return nil, err
	}
	ancestors, err := f.ancestors(ctx, s)
	if err != nil {
		return nil, err
	}
	add(len(f.IDs) > 0, func(c *Container) bool { return matchesAny(f.IDs, c.ID) })
	add(len(f.Names) > 0, func(c *Container) bool { return matchesAny(f.Names, c.Name, "/"+c.Name) })
	add(len(f.Labels) > 0, func(c *Container) bool { return HasLabels(c.labels(), f.Labels) })
	add(len(f.NotLabels) > 0, func(c *Container) bool { return !HasLabels(c.labels(), f.NotLabels) })
	add(len(f.States) > 0, func(c *Container) bool { return slices.Contains(f.States, c.State.Word()) })
	add(len(f.Exited) > 0, func(c *Container) bool {
		return c.State.Word() == "exited" && slices.Contains(f.Exited, c.State.Code())
	})
	add(len(f.Before) > 0, func(c *Container) bool { return c.Created.Before(before) })
	add(len(f.Since) > 0, func(c *Container) bool { return c.Created.After(since) })
	add(len(f.Until) > 0, func(c *Container) bool { return olderThan(c.Created, f.Until) })
	add(len(f.Ancestors) > 0, func(c *Container) bool {
		return slices.ContainsFunc(ancestors, func(img store.Image) bool { return c.standsOn(img) })
	})
	add(len(f.Networks) > 0, func(c *Container) bool {
		return c.Config != nil && slices.ContainsFunc(c.Config.In(), func(j container.Joined) bool {
			return slices.Contains(f.Networks, j.Name) || j.ID != "" && slices.Contains(f.Networks, j.ID)
		})
	})
	add(len(f.Volumes) > 0, func(c *Container) bool { return c.mounts(f.Volumes, m.VolumeOf) })
	add(f.Wanted != nil, f.Wanted)
	return all, nil
}

// created is when the last of some containers was created.
func created(ctx context.Context, s *store.Store, names []string) (when time.Time, err error) {
	for _, name := range names {
		c, err := FindContainer(ctx, s, name)
		if err != nil {
			return when, err
		}
		when = c.Created
	}
	return when, nil
}

// ancestors are the images that the filter names. One that is not there has no containers.
func (f *ContainerFilter) ancestors(ctx context.Context, s *store.Store) (images []store.Image, err error) {
	for _, name := range f.Ancestors {
		img, err := s.Image(ctx, name)
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		images = append(images, img)
	}
	return images, nil
}

// matchesAny reports whether one of the names is one of the values, or matches one as a regular
// expression. An expression that is none matches nothing.
func matchesAny(values []string, names ...string) bool {
	for _, v := range values {
		re, err := regexp.Compile(v)
		for _, n := range names {
			if n == v || err == nil && re.MatchString(n) {
				return true
			}
		}
	}
	return false
}

func (c *Container) labels() map[string]string {
	if c.Config == nil {
		return nil
	}
	return c.Config.Labels
}

// standsOn reports whether the container is made of an image, or of one whose layers begin with its layers.
func (c *Container) standsOn(img store.Image) bool {
	n := len(img.Layers)
	return c.ImageID == img.ID || n > 0 && len(c.Snapshot) >= n && slices.Equal(c.Snapshot[:n], img.Layers)
}

// mounts reports whether a mount has one of the paths as its source or its destination.
func (c *Container) mounts(sources []string, volumeOf func(dir string) string) bool {
	if c.Config == nil {
		return false
	}
	for _, m := range c.Config.Mounts {
		if slices.Contains(sources, m.Dest) || m.Bind != "" && (slices.Contains(sources, m.Bind) || slices.Contains(sources, volumeOf(m.Bind))) {
			return true
		}
	}
	return false
}

// ImageIsNamed reports whether the name by which the image was given still means the image. Otherwise the container's
// image is known by its ID alone.
func (c *Container) ImageIsNamed(ctx context.Context, s *store.Store) bool {
	img, err := s.Image(ctx, c.Image)
	return err == nil && img.ID == c.ImageID
}

// Command is what is run, as Docker tells it: arguments with spaces are in quotes.
func (c *Container) Command() string {
	words := slices.Clone(c.Config.Args)
	for i := range words {
		if i > 0 && strings.Contains(words[i], " ") {
			words[i] = "'" + words[i] + "'"
		}
	}
	return strings.Join(words, " ")
}

// Status is the state in Docker's words, with times and exit code.
func (c *Container) Status() string {
	switch s := c.State; {
	case s.Word() == "running":
		return "Up " + units.HumanDuration(time.Since(s.Started))
	case s.Word() == "created":
		return "Created"
	case s.Finished.IsZero(): // the process that ran it was killed
		return fmt.Sprintf("Exited (%d)", s.Code())
	default:
		return fmt.Sprintf("Exited (%d) %s ago", s.ExitCode, units.HumanDuration(time.Since(s.Finished)))
	}
}

// Sizes are the bytes of the files of the writable layer, and of all layers. A writable layer counts as far as it can be read: it is no error of a list what a
// process has made of it.
func (c *Container) Sizes(ctx context.Context, m *container.Manager) (own, all int64, err error) {
	own, _ = m.Size(c.Container)
	all, err = m.ImageSize(ctx, c.Container)
	return own, own + all, err
}

// Platform is that of the image, nil when the image is gone.
func (c *Container) Platform(ctx context.Context, s *store.Store) *ocispec.Platform {
	img, err := container.ReadImage(ctx, s, c.ImageID)
	if err != nil {
		return nil
	}
	return &ocispec.Platform{Architecture: img.Architecture, OS: img.OS, Variant: img.Variant}
}

// Running is how many of some containers run.
func Running(s *store.Store, all []store.Container) (n int) {
	m := container.Manager{Store: s}
	for _, c := range all {
		if m.State(c.ID).Running {
			n++
		}
	}
	return n
}
