package cli

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/slipway-build/slipway/internal/container"
	"github.com/slipway-build/slipway/internal/store"
)

// containerTest tells whether a container passes a filter.
type containerTest func(store.Container, container.State) bool

// containerFilter turns the values of --filter into one test. The names and what they mean are
// Docker's (moby, daemon/list.go and daemon/prune.go): several values of one name are alternatives, but
// of labels all must be there; different names must all match. The containers and images that
// filters name are looked up.
func containerFilter(ctx context.Context, m *container.Manager, filters map[string][]string) (containerTest, error) {
	var all []containerTest
	for name, values := range filters {
		test, err := compileFilter(ctx, m, name, values)
		if err != nil {
			return nil, err
		}
		all = append(all, test)
	}
	return func(c store.Container, s container.State) bool {
		return !slices.ContainsFunc(all, func(test containerTest) bool { return !test(c, s) })
	}, nil
}

func compileFilter(ctx context.Context, m *container.Manager, name string, values []string) (containerTest, error) {
	switch name {
	case "id":
		return func(c store.Container, _ container.State) bool { return matchAny(values, c.ID) }, nil
	case "name":
		return func(c store.Container, _ container.State) bool { return matchAny(values, c.Name, "/"+c.Name) }, nil
	case "label":
		return func(c store.Container, _ container.State) bool { return matchLabels(labelsOf(c), values) }, nil
	case "label!":
		return func(c store.Container, _ container.State) bool { return !matchLabels(labelsOf(c), values) }, nil
	case "status":
		return statusFilter(values)
	case "exited":
		return exitedFilter(values)
	case "before", "since":
		return relativeFilter(ctx, m, name == "before", values)
	case "until":
		return untilFilter(values)
	case "ancestor":
		return ancestorFilter(ctx, m, values)
	case "network", "volume":
		return configFilter(name, values), nil
	}
	return nil, fmt.Errorf("invalid filter '%s'", name)
}

// matchAny reports whether one of the names is one of the values, or matches one as a regular
// expression. An expression that is none matches nothing.
func matchAny(values []string, names ...string) bool {
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

// matchLabels reports whether all of KEY or KEY=VALUE are there.
func matchLabels(labels map[string]string, wanted []string) bool {
	for _, w := range wanted {
		key, want, exact := strings.Cut(w, "=")
		if got, ok := labels[key]; !ok || exact && got != want {
			return false
		}
	}
	return true
}

func labelsOf(c store.Container) map[string]string {
	config, err := container.ReadConfig(c)
	if err != nil {
		return nil
	}
	return config.Labels
}

// statusFilter takes the states of Docker, of which some never occur here.
func statusFilter(values []string) (containerTest, error) {
	states := []string{"created", "running", "paused", "restarting", "removing", "exited", "dead"}
	for _, v := range values {
		if !slices.Contains(states, v) {
			return nil, fmt.Errorf("invalid filter 'status=%s': it can be %s", v, strings.Join(states, ", "))
		}
	}
	return func(_ store.Container, s container.State) bool { return slices.Contains(values, statusWord(s)) }, nil
}

func exitedFilter(values []string) (containerTest, error) {
	var codes []int
	for _, v := range values {
		n, err := strconv.Atoi(v)
		if err != nil {
			return nil, fmt.Errorf("invalid filter 'exited=%s': it is no exit code", v)
		}
		codes = append(codes, n)
	}
	return func(_ store.Container, s container.State) bool {
		return statusWord(s) == "exited" && slices.Contains(codes, exitCode(s))
	}, nil
}

// relativeFilter selects containers that were created before, or since, another one.
func relativeFilter(ctx context.Context, m *container.Manager, before bool, values []string) (containerTest, error) {
	var than time.Time
	for _, v := range values {
		c, err := findContainer(ctx, m.Store, v)
		if err != nil {
			return nil, err
		}
		than = c.Created
	}
	return func(c store.Container, _ container.State) bool {
		if before {
			return c.Created.Before(than)
		}
		return c.Created.After(than)
	}, nil
}

func untilFilter(values []string) (containerTest, error) {
	if len(values) > 1 {
		return nil, errors.New("more than one until filter specified")
	}
	until, err := parseUntil(values[0], time.Now())
	if err != nil {
		return nil, err
	}
	return func(c store.Container, _ container.State) bool { return c.Created.Before(until) }, nil
}

// ancestorFilter selects containers of an image, and of images that were built on it: those whose
// layers begin with its layers. An image that is not there has no containers.
func ancestorFilter(ctx context.Context, m *container.Manager, values []string) (containerTest, error) {
	var images []store.Image
	for _, v := range values {
		img, err := m.Store.Image(ctx, v)
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		images = append(images, img)
	}
	return func(c store.Container, _ container.State) bool {
		return slices.ContainsFunc(images, func(img store.Image) bool {
			n := len(img.Layers)
			return c.ImageID == img.ID || n > 0 && len(c.Snapshot) >= n && slices.Equal(c.Snapshot[:n], img.Layers)
		})
	}, nil
}

// configFilter selects containers by the name of their network, or by the source or the destination
// of a mount.
func configFilter(name string, values []string) containerTest {
	return func(c store.Container, _ container.State) bool {
		config, err := container.ReadConfig(c)
		if err != nil {
			return false
		}
		if name == "network" {
			return slices.Contains(values, string(config.Network))
		}
		for _, m := range config.Mounts {
			if slices.Contains(values, m.Dest) || m.Bind != "" && slices.Contains(values, m.Bind) {
				return true
			}
		}
		return false
	}
}
