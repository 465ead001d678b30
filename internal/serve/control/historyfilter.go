package control

import (
	"fmt"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/pkg/filters"
	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/util/gitutil"
	"github.com/tonistiigi/go-csvvalue"
)

// recordFilter chooses records.
type recordFilter func(*controlapi.BuildHistoryRecord) bool

// historyFilter reads filters as BuildKit does: of several one has to match, and all fields of one: ref, status and repository as
// containerd's filters have them, and startedAt, completedAt and duration with <, <=, > or >=.
func historyFilter(all []string) (recordFilter, error) {
	if len(all) == 0 {
		return func(*controlapi.BuildHistoryRecord) bool { return true }, nil
	}
	var any []recordFilter
	for _, text := range all {
		f, err := oneFilter(text)
		if err != nil {
			return nil, err
		}
		any = append(any, f)
	}
	return func(r *controlapi.BuildHistoryRecord) bool {
		for _, f := range any {
			if f(r) {
				return true
			}
		}
		return false
	}, nil
}

func oneFilter(text string) (recordFilter, error) {
	fields, err := csvvalue.Fields(text, nil)
	if err != nil {
		return nil, err
	}
	var all []recordFilter
	var words []string
	for _, field := range fields {
		f, err := timeFilter(field)
		if err != nil {
			return nil, err
		}
		if f == nil {
			words = append(words, field)
			continue
		}
		all = append(all, f)
	}
	rest, err := filters.ParseAll(strings.Join(words, ","))
	if err != nil {
		return nil, fmt.Errorf("failed to parse history filters %v: %w", text, err)
	}
	return func(r *controlapi.BuildHistoryRecord) bool {
		for _, f := range all {
			if !f(r) {
				return false
			}
		}
		return rest.Match(filters.AdapterFunc(func(path []string) (string, bool) { return recordField(r, path) }))
	}, nil
}

// timeFilter reads a field that is about time; nil is another one.
func timeFilter(field string) (recordFilter, error) {
	i := strings.IndexAny(field, "<>")
	if i < 0 {
		return nil, nil
	}
	key, sign, value := field[:i], field[i:i+1], field[i+1:]
	if v, ok := strings.CutPrefix(value, "="); ok {
		sign, value = sign+"=", v
	}
	var limit int64
	switch d, err := time.ParseDuration(value); {
	case key != "startedAt" && key != "completedAt" && key != "duration":
		return nil, nil
	case key == "duration" && err != nil:
		return nil, fmt.Errorf("invalid duration %s", value)
	case key == "duration":
		limit = int64(d)
	case err == nil:
		limit = time.Now().Add(-d).Unix()
	default:
		t, err := time.Parse(time.RFC3339, value)
		if err != nil {
			return nil, fmt.Errorf("invalid time %s", value)
		}
		limit = t.Unix()
	}
	return func(r *controlapi.BuildHistoryRecord) bool {
		var v int64
		switch {
		case key == "startedAt":
			v = r.CreatedAt.AsTime().Unix()
		case r.CompletedAt == nil:
		case key == "completedAt":
			v = r.CompletedAt.AsTime().Unix()
		default:
			v = int64(r.CompletedAt.AsTime().Sub(r.CreatedAt.AsTime()))
		}
		switch sign {
		case ">=":
			return v >= limit
		case "<=":
			return v <= limit
		case ">":
			return v > limit
		}
		return v < limit
	}, nil
}

// recordField is a field of a record for containerd's filters.
func recordField(r *controlapi.BuildHistoryRecord, path []string) (string, bool) {
	if len(path) == 0 {
		return "", false
	}
	switch path[0] {
	case "ref":
		return r.Ref, r.Ref != ""
	case "status":
		switch {
		case r.CompletedAt == nil:
			return "running", true
		case r.Error == nil:
			return "completed", true
		case strings.Contains(r.Error.Message, "context canceled"):
			return "canceled", true
		}
		return "error", true
	case "repository":
		if v, ok := r.FrontendAttrs["vcs:source"]; ok {
			return v, true
		}
		if u, err := gitutil.ParseURL(r.FrontendAttrs["context"]); err == nil {
			return u.Remote, true
		}
	}
	return "", false
}
