package build

import (
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/engine"
	"github.com/slipway-build/slipway/internal/filetrace"
	"github.com/slipway-build/slipway/internal/store"
)

// tracePrefix begins the names of the files of a record that tell which files a step has opened. The key of the step ends them.
const tracePrefix = "opened-"

// traceFiles says where traces of files go; nil: there are none. Where it is not possible a step of the display says so.
func (b *building) traceFiles() func(engine.Key) (*filetrace.Writer, error) {
	if !b.req.TraceFiles || b.req.Call != "" {
		return nil
	}
	if err := filetrace.Supported(); err != nil {
		b.say(fmt.Sprintf("WARNING: files are not traced: %v", err))
		return nil
	}
	return func(k engine.Key) (*filetrace.Writer, error) {
		return filetrace.Create(filepath.Join(b.record.path, tracePrefix+string(k)))
	}
}

// isTrace reports whether a file of a record of that name tells which files a step has opened.
func isTrace(name string) bool {
	k, is := strings.CutPrefix(name, tracePrefix)
	_, err := hex.DecodeString(k)
	return is && err == nil && k != ""
}

// checkTrace looks at a trace that somebody says a build has left.
func checkTrace(f *os.File) error {
	return filetrace.Read(f, func(k filetrace.Kind, path string) error {
		if len(path) > unix.PathMax || k != filetrace.Opened && k != filetrace.Executed && k != filetrace.Listed {
			return fmt.Errorf("it has a path of %d bytes, of kind %q", len(path), byte(k))
		}
		return nil
	})
}

// OpenedFiles gives what the step with a key has opened, if the build traced it; otherwise the error is [os.ErrNotExist].
func (r *Recorded) OpenedFiles(k engine.Key, each func(filetrace.Kind, string) error) error {
	if !isTrace(tracePrefix + string(k)) {
		return fmt.Errorf("reading the files of step %q: %w", k, os.ErrNotExist)
	}
	f, err := store.OpenRegular(filepath.Join(r.dir, tracePrefix+string(k)))
	if err != nil {
		return err
	}
	defer f.Close()
	return filetrace.Read(f, each)
}

// Traced finds the newest of some builds, which are the newest first, that traced the files of the step with a key, and what it says of them. A step that was
// cached has done what the one did that made its result. What others say of their builds counts for none of this store's: imported chooses among theirs.
func Traced(all []Recorded, k engine.Key, imported bool) (*Recorded, *filetrace.Summary) {
	for i := range all {
		for _, s := range all[i].Steps {
			if all[i].Imported == imported && s.Key == k && s.Error == "" && s.Process != nil && s.Process.Files != nil {
				return &all[i], s.Process.Files
			}
		}
	}
	return nil, nil
}
