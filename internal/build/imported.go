package build

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/internal/processes"
	"github.com/slipway-build/slipway/internal/reasons"
	"github.com/slipway-build/slipway/internal/store"
)

// recordFile is the file of a [Record].
const recordFile = "record.json"

// What a record of another machine may have, so that whoever shows it does so in a bounded time.
const (
	maxForeignJSON  = 64 << 20 // bytes of a document
	maxForeignLog   = 1 << 30  // bytes of a log that is compressed
	maxForeignSteps = 10_000   // steps, phases, vertices
	maxForeignParts = 200_000  // pieces of work, processes, inputs, layers and parts of all steps
	maxForeignTook  = 10 * 365 * 24 * time.Hour
	maxForeignAhead = 24 * time.Hour // of a clock
)

// IsRecordFile reports whether a build may leave a file of that name in its record.
func IsRecordFile(name string) bool {
	piece, isPiece := strings.CutPrefix(name, piecePrefix)
	lists, isLists := strings.CutPrefix(name, listsPrefix)
	switch {
	case isPiece:
		return reasons.IsPiece(piece)
	case isLists:
		return reasons.IsPiece(lists)
	}
	return isTrace(name) || name == recordFile || name == graphFile || name == processesFile || name == "log" || name == "log.gz"
}

// CheckRecord reads the files in a directory that somebody says a build has left, as far as [IsRecordFile] knows them, and gives the
// record: nothing in them makes whoever shows it later fail, or take long.
func CheckRecord(dir string) (*Record, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var r Record
	for _, e := range entries {
		name := e.Name()
		if !IsRecordFile(name) {
			continue
		}
		if err := r.checkFile(filepath.Join(dir, name), name); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	if r.ID == "" {
		return nil, fmt.Errorf("there is no %s, or it has no ID", recordFile)
	}
	return &r, nil
}

// checkFile looks at a file of a record.
func (r *Record) checkFile(path, name string) error {
	f, err := store.OpenRegular(path)
	if err != nil {
		return err
	}
	defer f.Close()
	switch {
	case name == "log":
		return nil
	case name == "log.gz":
		return checkLog(f)
	case isTrace(name):
		return checkTrace(f)
	case strings.HasPrefix(name, piecePrefix):
		data, err := io.ReadAll(io.LimitReader(f, maxPiece))
		if err == nil && reasons.PieceName(data) != strings.TrimPrefix(name, piecePrefix) {
			err = errors.New("it has another content than its name says")
		}
		return err
	case strings.HasPrefix(name, listsPrefix):
		var lists reasons.Lists
		return decodeForeign(f, &lists)
	case name == graphFile:
		return checkGraph(f)
	case name == processesFile:
		var all []processes.Process
		if err := decodeForeign(f, &all); err != nil {
			return err
		}
		return atMost("processes", len(all), maxForeignParts)
	}
	if err := decodeForeign(f, r); err != nil {
		return err
	}
	return r.check()
}

func decodeForeign(f *os.File, into any) error {
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	if fi.Size() > maxForeignJSON {
		return fmt.Errorf("it has %d bytes, more than %d", fi.Size(), maxForeignJSON)
	}
	return json.NewDecoder(f).Decode(into)
}

func checkLog(f *os.File) error {
	zip, err := gzip.NewReader(f)
	if err != nil {
		return err
	}
	n, err := io.Copy(io.Discard, io.LimitReader(zip, maxForeignLog+1))
	if err == nil && n > maxForeignLog {
		err = fmt.Errorf("it has more than %d bytes", maxForeignLog)
	}
	return err
}

func checkGraph(f *os.File) error {
	g := &reasons.Build{}
	if err := decodeForeign(f, g); err != nil {
		return err
	}
	if !g.Valid() {
		return errors.New("it has an input that does not come before it")
	}
	return atMost("steps", len(g.Vertices), maxForeignSteps)
}

func atMost(what string, n, most int) error {
	if n > most {
		return fmt.Errorf("it has %d %s, more than %d", n, what, most)
	}
	return nil
}

// check looks at how much there is of all, and at times.
func (r *Record) check() error {
	began, err := idBegan(r.ID)
	if err != nil {
		return err
	}
	parts := len(r.Work)
	all := []stretch{{began, 0}, {r.Started, r.Took}}
	for _, s := range r.Steps {
		parts += len(s.Inputs) + len(s.Layers)
		all = append(all, stretch{s.Started, s.Took})
	}
	for _, p := range r.Phases {
		parts += len(p.Inputs) + len(p.Parts)
		all = append(all, stretch{p.Started, p.Took})
	}
	for _, w := range r.Work {
		all = append(all, stretch{w.Started, w.Took})
	}
	for _, t := range all {
		if err := t.check(); err != nil {
			return err
		}
	}
	return errors.Join(atMost("steps", len(r.Steps), maxForeignSteps), atMost("phases", len(r.Phases), maxForeignSteps), atMost("inputs, layers and pieces of work", parts, maxForeignParts))
}

// ForeignID is the ID of a build of another builder, which calls it ref: the same wherever it is imported.
func ForeignID(began time.Time, ref string) string {
	return began.UTC().Format(idTime) + digest.FromString(ref).Encoded()[:8]
}

// idBegan is when a build began, by its ID, which is one as [NewID] makes them.
func idBegan(id string) (time.Time, error) {
	began, err := time.Parse(idTime, id[:min(len(id), len(idTime))])
	code := id[min(len(id), len(idTime)):]
	if err != nil || len(code) != 8 || strings.Trim(code, "0123456789abcdef") != "" {
		return began, fmt.Errorf("%q is no ID of a build", id)
	}
	return began, nil
}

// stretch is a time in which something was done; the zero time is not known.
type stretch struct {
	began time.Time
	took  time.Duration
}

func (t stretch) check() error {
	switch {
	case t.took < 0 || t.took > maxForeignTook:
		return fmt.Errorf("something in it took %s", t.took)
	case !t.began.IsZero() && (t.began.Year() < 2000 || time.Until(t.began) > maxForeignAhead):
		return fmt.Errorf("something in it was at %s", t.began)
	}
	return nil
}
