package view

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/slipway-build/slipway/internal/container"
)

// Args are filters in Docker's words, as the command line and the API have them: the values of each key.
type Args map[string][]string

// ParseArgs reads values of --filter, KEY=VALUE. Other keys than the known ones are an error.
func ParseArgs(values []string, known ...string) (Args, error) {
	args := Args{}
	for _, v := range values {
		key, value, ok := strings.Cut(v, "=")
		if !ok {
			return nil, fmt.Errorf("invalid argument %q for \"--filter\" flag: invalid filter %q (should be key=value)", v, v)
		}
		key = strings.ToLower(strings.TrimSpace(key))
		if !slices.Contains(known, key) {
			return nil, fmt.Errorf("invalid filter %q: want one of %s", key, strings.Join(known, ", "))
		}
		args[key] = append(args[key], strings.TrimSpace(value))
	}
	return args, nil
}

// times reads the values of until.
func (a Args) times() (all []time.Time, err error) {
	for _, v := range a["until"] {
		t, err := parseUntil(v, time.Now())
		if err != nil {
			return nil, err
		}
		all = append(all, t)
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

// olderThan reports whether something was made before all of the times.
func olderThan(made time.Time, times []time.Time) bool {
	return !slices.ContainsFunc(times, func(t time.Time) bool { return !made.Before(t) })
}

// hasLabel reports whether one of the labels is the wanted one, KEY or KEY=VALUE.
func hasLabel(labels map[string]string, wanted string) bool {
	key, value, exact := strings.Cut(wanted, "=")
	got, ok := labels[key]
	return ok && (!exact || got == value)
}

// HasLabels reports whether all of the wanted labels, KEY or KEY=VALUE, are there.
func HasLabels(labels map[string]string, wanted []string) bool {
	return !slices.ContainsFunc(wanted, func(w string) bool { return !hasLabel(labels, w) })
}

// FitLabels reports whether the filters label and label! let something with such labels through.
func FitLabels(args Args, labels map[string]string) bool {
	with, without := args["label"], args["label!"]
	return HasLabels(labels, with) && (len(without) == 0 || !HasLabels(labels, without))
}

// VolumeLabels are the labels of a volume, with Docker's of one that is anonymous.
func VolumeLabels(v container.Volume) map[string]string {
	if !v.Anonymous {
		return v.Labels
	}
	labels := map[string]string{"com.docker.volume.anonymous": ""}
	maps.Copy(labels, v.Labels)
	return labels
}
