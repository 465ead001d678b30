package cli

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/distribution/reference"

	"github.com/slipway-build/slipway/internal/store"
)

// imageFilter combines the filters of `image ls` and `image prune`: an image must pass each key, for which
// one of the values suffices; of labels it must have all. The keys and their meaning are those of Docker's
// `image ls --filter`.
func imageFilter(ctx context.Context, s *store.Store, filters map[string][]string) (func(store.Image) (bool, error), error) {
	var all []func(store.Image) (bool, error)
	for _, v := range filters["dangling"] {
		want, err := strconv.ParseBool(v)
		if err != nil {
			return nil, fmt.Errorf("invalid filter 'dangling=%s'", v)
		}
		all = append(all, func(i store.Image) (bool, error) { return i.Tagged() != want, nil })
	}
	times, err := timeFilters(ctx, s, filters)
	if err != nil {
		return nil, err
	}
	all = append(all, times...)
	if patterns := filters["reference"]; len(patterns) > 0 {
		for _, p := range patterns {
			if _, err := path.Match(p, ""); err != nil {
				return nil, fmt.Errorf("invalid filter 'reference=%s': %w", p, err)
			}
		}
		all = append(all, func(i store.Image) (bool, error) {
			return slices.ContainsFunc(patterns, func(p string) bool { return matchesName(i, p) }), nil
		})
	}
	if has, not := filters["label"], filters["label!"]; len(has)+len(not) > 0 {
		all = append(all, func(i store.Image) (bool, error) { return hasLabels(ctx, s, i, has, not) })
	}
	return func(i store.Image) (bool, error) {
		for _, keep := range all {
			if ok, err := keep(i); err != nil || !ok {
				return false, err
			}
		}
		return true, nil
	}, nil
}

// timeFilters are before=IMAGE, since=IMAGE and until=TIME.
func timeFilters(ctx context.Context, s *store.Store, filters map[string][]string) ([]func(store.Image) (bool, error), error) {
	var all []func(store.Image) (bool, error)
	for key, values := range filters {
		for _, v := range values {
			var t time.Time
			var err error
			switch key {
			case "before", "since":
				var img store.Image
				img, err = findImage(ctx, s, v)
				t = img.Created
			case "until":
				t, err = parseUntil(v, time.Now())
			default:
				continue
			}
			if err != nil {
				return nil, err
			}
			all = append(all, func(i store.Image) (bool, error) {
				if key == "since" {
					return i.Created.After(t), nil
				}
				return i.Created.Before(t), nil
			})
		}
	}
	return all, nil
}

// parseUntil reads a time as Docker's until filters do: a Unix time, a date, or how long before now.
func parseUntil(value string, now time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(value); err == nil {
		return now.Add(-d), nil
	}
	if n, err := strconv.ParseFloat(value, 64); err == nil {
		return time.Unix(0, int64(n*float64(time.Second))), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05.999999999", "2006-01-02T15:04", "2006-01-02Z07:00", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, value, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("invalid filter 'until=%s': want a Unix time, a date such as 2006-01-02T15:04:05, or a duration such as 24h", value)
}

// hasLabels reports whether an image's config has each label of has, "key" or "key=value", and none of not.
func hasLabels(ctx context.Context, s *store.Store, img store.Image, has, not []string) (bool, error) {
	config, err := imageConfig(ctx, s, img)
	if errors.Is(err, store.ErrNotFound) {
		return false, nil // it was removed meanwhile
	}
	if err != nil {
		return false, err
	}
	match := func(label string) bool {
		key, value, exact := strings.Cut(label, "=")
		got, ok := config.Config.Labels[key]
		return ok && (!exact || got == value)
	}
	for _, l := range has {
		if !match(l) {
			return false, nil
		}
	}
	return !slices.ContainsFunc(not, match), nil
}

// matchesName reports whether an image has the repository, or the repository and tag, which may be a
// pattern. The rule is that of reference.FamiliarMatch, which looks at the short form of the name.
func matchesName(i store.Image, pattern string) bool {
	if !i.Tagged() {
		return false
	}
	ref, err := reference.ParseNormalizedNamed(i.Name)
	if err != nil {
		return false
	}
	for _, name := range []string{reference.FamiliarString(ref), reference.FamiliarName(ref), i.Name, ref.Name()} {
		if ok, err := path.Match(pattern, name); ok && err == nil {
			return true
		}
	}
	return false
}

// findImage is store.Image with a message for people.
func findImage(ctx context.Context, s *store.Store, name string) (store.Image, error) {
	img, err := s.Image(ctx, name)
	return img, noImage(name, err)
}

// useImage is store.UseImage with a message for people.
func useImage(ctx context.Context, s *store.Store, name string) (store.Image, error) {
	img, err := s.UseImage(ctx, name)
	return img, noImage(name, err)
}

func noImage(name string, err error) error {
	if errors.Is(err, store.ErrNotFound) {
		return &notFoundError{"No such image: " + name, err}
	}
	return err
}
