// Package history lists the records of builds, chosen by filters, to whoever shows them.
//
// A filter is written in BuildKit's syntax ([ParseFilter]), as its API has it, or in the words of buildx' users
// ([ParseWords]), which are turned into that. How a record is shown is the affair of front doors.
package history

import (
	"slices"
	"time"

	"github.com/slipway-build/slipway/internal/build"
	"github.com/slipway-build/slipway/internal/store"
)

// Status is how a build ended, in the words of BuildKit's filters.
type Status string

const (
	Running   Status = "running"
	Completed Status = "completed"
	Failed    Status = "error"
	Canceled  Status = "canceled"
)

// Record is what is known of a build.
type Record struct{ build.Recorded }

// Status is how the build ended, if it has.
func (r *Record) Status() Status {
	switch {
	case r.Running:
		return Running
	case r.Canceled:
		return Canceled
	case r.Error != "":
		return Failed
	}
	return Completed
}

// Completed is when the build ended, the zero time while it runs.
func (r *Record) Completed() time.Time {
	if r.Running {
		return time.Time{}
	}
	return r.Started.Add(r.Took)
}

// Counts counts the steps that have ended well, and those of them that were cached.
func (r *Record) Counts() (done, cached int) {
	for _, s := range r.Steps {
		if s.Error == "" {
			done++
		}
		if s.Cached {
			cached++
		}
	}
	return done, cached
}

// Before reports whether a build began before another one of the same Dockerfile, context, target and platforms, and has ended. Those that
// were imported are none of this machine's: its paths say nothing of theirs.
func (r *Record) Before(o *Record) bool {
	return !r.Running && r.Imported == o.Imported && r.ID < o.ID && r.Context == o.Context && r.File == o.File && r.Target == o.Target && r.Called == o.Called &&
		slices.Equal(r.Platforms, o.Platforms) && len(r.Steps) > 0
}

// List reads the records that a filter takes: those of builds that run first, the newest of the others after them, and no more
// than limit, unless that is 0.
func List(s *store.Store, f Filter, limit int) ([]Record, error) {
	read, err := build.Records(s)
	if err != nil {
		return nil, err
	}
	var running, ended []Record
	for _, r := range read {
		rec := Record{r}
		switch {
		case f != nil && !f(&rec):
		case rec.Running:
			running = append(running, rec)
		default:
			ended = append(ended, rec)
		}
	}
	all := append(running, ended...)
	if limit > 0 && len(all) > limit {
		all = all[:limit]
	}
	return all, nil
}
