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

	"github.com/slipway-build/slipway/internal/store"
)

// idTime is what the ID of a build begins with: builds are listed in their order.
const idTime = "20060102-150405.000000-"

// Recorded is what a store knows of a build.
type Recorded struct {
	Record
	Running, Pinned bool
	Imported        bool // it came from elsewhere: all in it is a claim, and its layers are none of this store

	dir string
}

// maxRecord is how long a record may be that is read into memory.
const maxRecord = 256 << 20

// Records reads the records of all builds, the newest first. A build that runs, or that was killed, has none yet: it has an
// ID and when it began. So has one whose record cannot be read, which is its error.
func Records(s *store.Store) ([]Recorded, error) {
	builds, err := s.Builds()
	if err != nil {
		return nil, err
	}
	var all []Recorded
	for _, b := range builds {
		r := Recorded{Running: b.Running, Pinned: b.Pinned, Imported: b.Imported, dir: filepath.Join(s.Root(), "builds", b.Name)}
		err := r.read()
		r.ID = b.Name
		switch {
		case errors.Is(err, os.ErrNotExist) && b.Running:
			r.begin(time.Now())
		case errors.Is(err, os.ErrNotExist):
			if _, err := os.Stat(r.dir); errors.Is(err, os.ErrNotExist) {
				continue // it was pruned
			}
			r.begin(b.Ended)
			r.Error = "it was killed before it had ended"
		case err != nil:
			r.Record = Record{ID: b.Name, Error: fmt.Sprintf("reading the record: %v", err)}
			r.begin(b.Ended)
		}
		all = append(all, r)
	}
	return all, nil
}

// read reads record.json.
func (r *Recorded) read() error { return readJSON(filepath.Join(r.dir, recordFile), &r.Record) }

func readJSON(path string, into any) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return json.NewDecoder(io.LimitReader(f, maxRecord)).Decode(into)
}

// begin takes the time of the beginning from the ID, for a build without a record.
func (r *Recorded) begin(end time.Time) {
	if len(r.ID) >= len(idTime) {
		r.Started, _ = time.Parse(idTime, r.ID[:len(idTime)])
	}
	if !r.Started.IsZero() {
		r.Took = max(end.Sub(r.Started), 0)
	}
}

// Log opens the log, as far as it is written.
func (r *Recorded) Log() (io.ReadCloser, error) {
	f, err := os.Open(filepath.Join(r.dir, "log"))
	if err == nil {
		return f, nil
	}
	if f, err = os.Open(filepath.Join(r.dir, "log.gz")); err != nil {
		return nil, fmt.Errorf("opening the log of build %s: %w", r.ID, err)
	}
	zip, err := gzip.NewReader(f)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening the log of build %s: %w", r.ID, err), f.Close())
	}
	return &zippedLog{zip, f}, nil
}

type zippedLog struct {
	*gzip.Reader
	file *os.File
}

// Close implements io.Closer.
func (z *zippedLog) Close() error { return errors.Join(z.Reader.Close(), z.file.Close()) }

// Name is what BuildKit's tools call a build: the name of its context's directory, with the Dockerfile where that has another
// name than the usual one, and the target.
func (r *Record) Name() string {
	name := r.Context
	if filepath.IsAbs(r.Context) {
		name = filepath.Base(r.Context)
		switch file := strings.TrimSuffix(r.File, "/Dockerfile"); {
		case strings.HasPrefix(file, strings.TrimSuffix(r.Context, "/")+"/"):
			name = filepath.Join(name, strings.TrimPrefix(file, r.Context))
		case filepath.IsAbs(file) && file != r.Context && file != r.File:
			name = filepath.Base(file)
		case filepath.IsAbs(file) && file != r.Context:
			name = filepath.Join(filepath.Base(filepath.Dir(file)), filepath.Base(file))
		}
	}
	if r.Target != "" {
		name = strings.TrimPrefix(name+" ("+r.Target+")", " ")
	}
	return name
}

// Dir is where the record is.
func (r *Recorded) Dir() string { return r.dir }
