package control

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/client"
	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/internal/build"
	"github.com/slipway-build/slipway/internal/engine"
	"github.com/slipway-build/slipway/internal/progress"
)

// What the log of another builder may tell.
const (
	maxForeignLog      = 128 << 20 // bytes
	maxForeignVertices = 10_000
	maxForeignStatuses = 100_000
)

// describeForeign makes the record and the log of a build that another builder has recorded, of what BuildKit's form says of it.
func describeForeign(ctx context.Context, r *record) error {
	began, ended := r.rec.CreatedAt.AsTime(), r.rec.CompletedAt.AsTime()
	attrs := r.rec.FrontendAttrs
	out := build.Record{
		ID:      build.ForeignID(began, r.rec.Ref),
		Context: cmp.Or(attrs["vcs:localdir:context"], attrs["context"], attrs["vcs:source"]), File: attrs["filename"], Target: attrs["target"],
		Started: began, Took: max(ended.Sub(began), 0),
		ImageID: r.rec.ExporterResponse["containerimage.config.digest"], Error: r.rec.GetError().GetMessage(), Canceled: isCanceled(r.rec),
	}
	if p := attrs["platform"]; p != "" {
		out.Platforms = strings.Split(p, ",")
	}
	if names := r.rec.ExporterResponse["image.name"]; names != "" {
		out.Names = strings.Split(names, ",")
	}
	if err := replayForeign(ctx, r, &out); err != nil {
		return err
	}
	data, err := json.Marshal(&out)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(r.dir.Path, "record.json"), data, 0o600)
}

// replayForeign tells the events of another builder to a log and a timeline.
func replayForeign(ctx context.Context, r *record, out *build.Record) (err error) {
	name := r.files[digest.Digest(r.rec.GetLogs().GetDigest())]
	if name == "" {
		return nil
	}
	f, err := openKept(filepath.Join(r.dir.Path, name))
	if err != nil {
		return err
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil || fi.Size() > maxForeignLog {
		return errors.Join(err, invalidBundle("its log has more than %d bytes", maxForeignLog))
	}
	text, err := os.OpenFile(filepath.Join(r.dir.Path, "log"), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, text.Close()) }()
	e := &foreignEvents{started: map[digest.Digest]bool{}, statuses: map[string]bool{}, log: progress.NewLog(text), times: progress.NewTimeline()}
	err = replay(ctx, f, e.event)
	if err := errors.Join(err, e.log.Close()); err != nil {
		return invalidBundle("its log: %w", err)
	}
	for _, s := range e.times.Spans() {
		if s.Took < 0 || !isStep(s.Name) {
			out.Phases = append(out.Phases, s)
			continue
		}
		out.Steps = append(out.Steps, engine.StepRecord{Name: s.Name, Digest: s.Digest, Inputs: s.Inputs, Cached: s.Cached, Started: s.Started, Took: s.Took, Error: s.Error, Canceled: s.Error == context.Canceled.Error()})
	}
	return nil
}

// isStep reports whether a vertex is an operation of the graph, by how BuildKit's frontend names them: "[build 2/3] RUN make".
func isStep(name string) bool {
	return strings.HasPrefix(name, "[") && !strings.HasPrefix(name, "[internal]") && !strings.HasPrefix(name, "[auth]")
}

// foreignEvents is who hears the events of another builder, which may be anything.
type foreignEvents struct {
	started  map[digest.Digest]bool
	statuses map[string]bool
	log      *progress.Log
	times    *progress.Timeline
}

func (e *foreignEvents) event(resp *controlapi.StatusResponse) error {
	s := client.NewSolveStatus(resp)
	validate(s)
	for _, v := range s.Vertexes {
		e.started[v.Digest] = true
		if v.Completed != nil && v.Started == nil {
			v.Started = v.Completed
		}
	}
	for _, st := range s.Statuses {
		e.statuses[string(st.Vertex)+" "+st.ID] = true
	}
	for _, l := range s.Logs {
		l.Stream = min(max(l.Stream, 1), 2)
	}
	if len(e.started) > maxForeignVertices || len(e.statuses) > maxForeignStatuses {
		return fmt.Errorf("it tells of more than %d steps, or %d states of them", maxForeignVertices, maxForeignStatuses)
	}
	e.times.Write(s)
	e.log.Write(s)
	return nil
}
