package history

import (
	"encoding/csv"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/pkg/filters"
)

// Filter reports whether a record is wanted; nil takes all.
type Filter func(*Record) bool

// ParseFilter reads filters in BuildKit's syntax, one of which has to match. Each is a line of CSV whose fields all have to
// match: conditions of ref, repository and status in containerd's syntax, and of startedAt, completedAt and duration, which
// are compared with <, <=, > or >= to a duration, or to a time: a point of RFC 3339, or as long ago as a duration.
func ParseFilter(lines []string) (Filter, error) {
	var some []Filter
	for _, line := range lines {
		fields, err := csv.NewReader(strings.NewReader(line)).Read()
		if err != nil {
			return nil, fmt.Errorf("invalid filter %q: %w", line, err)
		}
		f, err := parseFields(fields)
		if err != nil {
			return nil, err
		}
		some = append(some, f)
	}
	if len(some) == 0 {
		return nil, nil
	}
	return func(r *Record) bool {
		return slices.ContainsFunc(some, func(f Filter) bool { return f(r) })
	}, nil
}

// ParseWords reads values of buildx' --filter, all of which have to match. A value of ref or repository is a part of one.
func ParseWords(values []string) (Filter, error) {
	var fields []string
	for _, v := range values {
		field, err := fieldOf(v)
		if err != nil {
			return nil, err
		}
		fields = append(fields, field)
	}
	if len(fields) == 0 {
		return nil, nil
	}
	return parseFields(fields)
}

// fieldOf is a value of buildx' --filter in BuildKit's syntax.
func fieldOf(v string) (string, error) {
	at := strings.IndexAny(v, "!<>=")
	if at < 0 {
		return "", fmt.Errorf("invalid filter %q", v)
	}
	key, op := v[:at], v[at:at+1]
	if strings.HasPrefix(v[at+1:], "=") && op != "=" {
		op += "="
	}
	value := v[at+len(op):]
	switch key {
	case "ref", "repository", "status":
		switch {
		case op != "=" && op != "!=":
			return "", fmt.Errorf("invalid separator for %q, expected = or !=", v)
		case op == "!=":
		case key == "status":
			op = "=="
		default:
			op, value = "~=", regexp.QuoteMeta(value)
		}
		return key + op + strconv.Quote(value), nil
	case "startedAt", "completedAt", "duration":
		if op == "=" || op == "!=" || op == "!" {
			return "", fmt.Errorf("invalid separator for %q, expected <=, <, >= or >", v)
		}
		return v, nil
	}
	return "", fmt.Errorf("unsupported filter %q", v)
}

// parseFields reads conditions in BuildKit's syntax, all of which have to match.
func parseFields(fields []string) (Filter, error) {
	var all []Filter
	var texts []string
	for _, field := range fields {
		key, op, value := cutComparison(field)
		switch key {
		case "startedAt", "completedAt", "duration":
			f, err := timeFilter(key, op, value)
			if err != nil {
				return nil, err
			}
			all = append(all, f)
		default:
			texts = append(texts, field)
		}
	}
	text, err := filters.Parse(strings.Join(texts, ","))
	if err != nil {
		return nil, fmt.Errorf("reading filters %q: %w", texts, err)
	}
	return func(r *Record) bool {
		return text.Match(adapt(r)) && !slices.ContainsFunc(all, func(f Filter) bool { return !f(r) })
	}, nil
}

// cutComparison cuts a condition at its comparison of sizes.
func cutComparison(field string) (key, op, value string) {
	at := strings.IndexAny(field, "<>")
	if at < 0 {
		return "", "", field
	}
	op = field[at : at+1]
	if strings.HasPrefix(field[at+1:], "=") {
		op += "="
	}
	return field[:at], op, field[at+len(op):]
}

// adapt gives containerd's filters the fields that are texts.
func adapt(r *Record) filters.Adaptor {
	return filters.AdapterFunc(func(path []string) (string, bool) {
		switch strings.Join(path, ".") {
		case "ref":
			return r.ID, true
		case "repository":
			return r.Context, true
		case "status":
			return string(r.Status()), true
		}
		return "", false
	})
}

// timeFilter compares times and durations. A time is a point, or a duration before now. What has not ended yet ended before
// everything, and took no time.
func timeFilter(key, op, value string) (Filter, error) {
	duration, err := time.ParseDuration(value)
	when := time.Now().Add(-duration)
	if err != nil && key != "duration" {
		when, err = time.Parse(time.RFC3339, value)
	}
	if err != nil {
		return nil, fmt.Errorf("invalid value of the filter %s: %q", key, value)
	}
	return func(r *Record) bool {
		var c int
		switch key {
		case "startedAt":
			c = r.Started.Compare(when)
		case "completedAt":
			c = r.Completed().Compare(when)
		case "duration":
			took := r.Took
			if r.Running {
				took = 0
			}
			c = int(took - duration)
		}
		return c < 0 && op[0] == '<' || c > 0 && op[0] == '>' || c == 0 && len(op) == 2
	}, nil
}
