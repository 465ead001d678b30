package build

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/moby/buildkit/util/urlutil"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/cache"
	"github.com/slipway-build/slipway/internal/engine"
	"github.com/slipway-build/slipway/internal/meter"
	"github.com/slipway-build/slipway/internal/outbound"
	"github.com/slipway-build/slipway/internal/progress"
	"github.com/slipway-build/slipway/internal/store"
)

// Record is what a build leaves in builds/<ID>/record.json.
type Record struct {
	ID        string              `json:"id"`
	Called    string              `json:"name,omitempty"` // among builds that were carried out together
	Command   []string            `json:"command,omitempty"`
	Context   string              `json:"context"`    // the whole path of a directory
	File      string              `json:"dockerfile"` // the whole path, where the context is a directory
	Target    string              `json:"target,omitempty"`
	Platforms []string            `json:"platforms,omitempty"`
	Earlier   string              `json:"earlier,omitempty"` // the build that misses are explained with, if there were some
	Started   time.Time           `json:"started"`
	Took      time.Duration       `json:"took"`
	Steps     []engine.StepRecord `json:"steps"`
	Phases    []progress.Span     `json:"phases,omitempty"` // what displays show besides steps: reading, exporting
	Work      []meter.Work        `json:"work,omitempty"`   // on layers
	CacheFrom []cache.Report      `json:"cacheFrom,omitempty"`
	ImageID   string              `json:"imageID,omitempty"`
	ImageSize int64               `json:"imageSize,omitempty"` // bytes of the files of all its layers, of all platforms; 0 is not known
	Names     []string            `json:"names,omitempty"`
	Verified  []engine.Verified   `json:"verified,omitempty"` // cached steps that were carried out again
	Error     string              `json:"error,omitempty"`
	Canceled  bool                `json:"canceled,omitempty"` // whoever asked for it gave it up, or another build of the call failed; Error has the words
	Kept      string              `json:"kept,omitempty"`     // the container that the failed step was kept as
}

// record is that of a build under way, with the log, which is long before it is not full.
type record struct {
	Record

	path   string          // of the directory
	dir    *store.BuildDir // to be closed; nil where it is somebody else's, or goes away
	given  bool            // it is somebody else's
	forget bool            // nothing stays: the directory is a temporary one, which nobody lists
	file   *logFile
	log    *progress.Log
	times  *progress.Timeline
	meter  *meter.Meter
}

// NewID is the ID of a build that begins now. The time comes first: builds are listed in their order.
func NewID(now time.Time) (string, error) {
	var id [4]byte
	if _, err := rand.Read(id[:]); err != nil {
		return "", err
	}
	return now.UTC().Format(idTime) + hex.EncodeToString(id[:]), nil
}

func (b *Builder) newRecord(ctx context.Context, name string, req Request, dockerfile string) (*record, error) {
	now := time.Now().UTC()
	id, err := NewID(now)
	if err != nil {
		return nil, fmt.Errorf("starting build record: %w", err)
	}
	r := &record{times: progress.NewTimeline(), meter: &meter.Meter{}, Record: Record{
		ID:     id,
		Called: name, Command: req.Command, Context: urlutil.RedactCredentials(req.Context), File: dockerfile, Target: req.Target, Platforms: req.Platforms, Started: now,
	}}
	r.wholePaths(&req)
	s := b.opt.Store
	again := func(fn func() error) error { return s.Again(ctx, s.Root(), fn) }
	switch {
	case req.Record != nil:
		r.path, r.given, r.ID = req.Record.Path, true, filepath.Base(req.Record.Path)
	case req.Unrecorded || b.opt.Unrecorded:
		r.forget = true
		err = again(func() (err error) {
			r.path, err = s.TempDir()
			return err
		})
	default:
		err = again(func() (err error) {
			r.dir, err = s.NewBuild(r.ID)
			return err
		})
		if err == nil {
			r.path = r.dir.Path
		}
	}
	if err != nil {
		return nil, fmt.Errorf("starting build record: %w", err)
	}
	var f *logFile
	err = again(func() (err error) {
		f, err = createLog(filepath.Join(r.path, "log"))
		return err
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("starting build record: %w", err), r.close())
	}
	r.file, r.log = f, progress.NewLog(f)
	return r, nil
}

// wholePaths names a directory that is the context, and the Dockerfile of it, wherever somebody is who reads it.
func (r *Record) wholePaths(req *Request) {
	fi, err := os.Stat(req.Context)
	abs, aerr := filepath.Abs(req.Context)
	if err != nil || aerr != nil || !fi.IsDir() {
		return
	}
	r.Context = abs
	if file, err := filepath.Abs(r.File); err == nil && req.Dockerfile != "-" && !strings.Contains(r.File, "://") {
		r.File = file
	}
}

// describe keeps manifests in a record that somebody else completes. Configurations stay out of it: they have the values of build arguments.
func (r *record) describe(ctx context.Context, s *store.Store, manifests []ocispec.Descriptor, res *Result) error {
	if !r.given {
		return nil
	}
	for _, d := range manifests {
		if res.Manifests[d.Digest] != "" {
			continue // of another output
		}
		data, err := s.ReadBlob(ctx, d.Digest)
		name := "manifest-" + d.Digest.Encoded()
		if err == nil {
			err = s.Again(ctx, s.Root(), func() error { return os.WriteFile(filepath.Join(r.path, name), data, 0o600) })
		}
		if err != nil {
			return fmt.Errorf("writing build record: %w", err)
		}
		if res.Manifests == nil {
			res.Manifests = map[digest.Digest]string{}
		}
		res.Manifests[d.Digest] = name
	}
	return nil
}

// finish completes the log and writes record.json.
func (r *record) finish(ctx context.Context, s *store.Store, run *engine.Run, res *Result, failure error) error {
	r.Took = time.Since(r.Started)
	if run != nil {
		r.Steps = run.Records()
	}
	r.Phases, r.Work = r.phases(), r.meter.All()
	if failure != nil {
		r.Error, r.Canceled = failure.Error(), errors.Is(failure, context.Canceled) || ctx.Err() != nil
	} else {
		r.ImageID, r.Names, r.Verified = res.ImageID.String(), res.Names, res.Verified
	}
	err := errors.Join(r.log.Close(), r.file.Close())
	data, jerr := json.MarshalIndent(r, "", "  ")
	if jerr == nil {
		// Passwords in URLs of the command line, of steps and errors stay out of it.
		data := []byte(outbound.Redact(string(data)) + "\n")
		jerr = s.Again(ctx, s.Root(), func() error { return os.WriteFile(filepath.Join(r.path, recordFile), data, 0o600) })
	}
	if err := errors.Join(err, jerr, r.close()); err != nil {
		return fmt.Errorf("writing build record: %w", err)
	}
	return nil
}

// phases are the spans of what is no step.
func (r *record) phases() []progress.Span {
	steps := map[digest.Digest]bool{}
	for _, s := range r.Steps {
		steps[s.Digest] = true
	}
	return slices.DeleteFunc(r.times.Spans(), func(s progress.Span) bool { return steps[s.Digest] })
}

// close ends the use of the record's directory.
func (r *record) close() (err error) {
	if r.forget {
		err = os.RemoveAll(r.path)
	}
	if r.dir != nil {
		err = errors.Join(err, r.dir.Close())
	}
	return err
}
