package export

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer"
)

// Files is the root filesystem of one platform, which is exported as files.
type Files struct {
	Tree     layer.Tree
	Platform string // "linux/arm64"
	// Epoch, unless nil, is the time of all files.
	Epoch        *time.Time
	Attestations []Attestation
	// Prefix is that of the names of attestations' files.
	Prefix string
}

// Local writes root filesystems into a directory of the user's, which is made when it is missing:
// with split, each into one of its own below that, "linux_arm64". What is there already stays, but
// for files of the same names. All of it belongs to the user, as with BuildKit's client.
func Local(all []Files, split bool, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("writing files: %w", err)
	}
	w, err := layer.NewDirWriter(dir)
	if err != nil {
		return fmt.Errorf("writing files: %w", err)
	}
	if err := errors.Join(writeFiles(all, split, ownedBy{w, uint32(os.Getuid()), uint32(os.Getgid())}), w.Close()); err != nil {
		return &os.PathError{Op: "writing files to", Path: dir, Err: err}
	}
	return nil
}

// ownedBy gives files an owner.
type ownedBy struct {
	layer.Sink
	uid, gid uint32
}

func (o ownedBy) Add(e *layer.Entry) error {
	c := *e
	c.UID, c.GID = o.uid, o.gid
	return o.Sink.Add(&c)
}

// Tar writes root filesystems as a tar archive, as [Local] does.
func Tar(all []Files, split bool, w io.Writer) error {
	tw := layer.NewTarWriter(w)
	if err := errors.Join(writeFiles(all, split, tw), tw.Close()); err != nil {
		return fmt.Errorf("writing files as tar: %w", err)
	}
	return nil
}

// Tree gives root filesystems as one tree, as [Local] writes them; for whoever takes files in the order of a walk. What memory
// has no room for is kept in the directory tmp.
func Tree(all []Files, split bool, tmp string) (layer.Tree, error) {
	w := &treeSink{index: layer.NewIndexWriter(tmp)}
	if err := writeFiles(all, split, w); err != nil {
		return nil, fmt.Errorf("listing files: %w", err)
	}
	index, err := w.index.File()
	if err != nil {
		return nil, fmt.Errorf("listing files: %w", err)
	}
	return index.Tree(w.open), nil
}

// treeSink makes an index of entries, with the numbers of their contents.
type treeSink struct {
	index    *layer.IndexWriter
	contents []layer.Content
}

func (t *treeSink) Add(e *layer.Entry) error {
	entry := &layer.IndexEntry{Entry: *e, Offset: -1}
	if e.Content != nil {
		entry.Offset = int64(len(t.contents))
		t.contents = append(t.contents, e.Content)
	}
	return t.index.Put(entry)
}

func (t *treeSink) Close() error { return nil }

func (t *treeSink) open(e *layer.IndexEntry) (io.ReadCloser, error) {
	return t.contents[e.Offset].Open()
}

// writeFiles writes the files of all platforms. Without split no two may have a file of the same
// name (BuildKit's local exporter).
func writeFiles(all []Files, split bool, w layer.Sink) error {
	seen := map[string]string{}
	for _, f := range all {
		sink := &filesSink{Sink: w, epoch: f.Epoch}
		if split {
			if sink.dir = inName(f.Platform); !layer.IsName(sink.dir) {
				return fmt.Errorf("platform %q cannot have a directory of its own", f.Platform)
			}
			if err := sink.Add(&layer.Entry{Path: ".", Mode: unix.S_IFDIR | 0o755, ModTime: time.Unix(0, 0)}); err != nil {
				return err
			}
		} else if len(all) > 1 {
			sink.seen, sink.platform = seen, f.Platform
		}
		if err := layer.WriteTree(f.Tree, sink); err != nil {
			return err
		}
		if err := f.attest(sink, len(all) > 1 && !split); err != nil {
			return fmt.Errorf("writing attestations: %w", err)
		}
	}
	return nil
}

// inName is a platform's identifier as a name of files: a frontend makes it up, and no system's separators stay in it.
func inName(platform string) string {
	return strings.NewReplacer("/", "_", `\`, "_", ":", "_").Replace(platform)
}

// filesSink places the entries of one platform.
type filesSink struct {
	layer.Sink
	dir      string
	epoch    *time.Time
	seen     map[string]string // files of other platforms, and whose; nil when they have places of their own
	platform string
}

func (s *filesSink) Add(e *layer.Entry) error {
	d := *e
	d.Path = path.Join(s.dir, e.Path)
	if e.Hardlink {
		d.Link = path.Join(s.dir, e.Link)
	}
	if s.epoch != nil {
		d.ModTime = *s.epoch
	}
	if s.seen != nil {
		other, ok := s.seen[e.Path]
		if ok && !e.IsDir() {
			return fmt.Errorf("cannot overwrite %s from %s with %s when split option is disabled", e.Path, other, s.platform)
		}
		s.seen[e.Path] = s.platform
		if ok {
			return nil
		}
	}
	return s.Sink.Add(&d)
}

// attest writes the attestations beside the files: statements about each of them.
func (f *Files) attest(sink *filesSink, named bool) error {
	var self []Subject
	names := map[string]bool{}
	for _, a := range f.Attestations {
		if a.InlineOnly {
			continue
		}
		if a.Self && self == nil {
			var err error
			if self, err = fileSubjects(f.Tree); err != nil {
				return err
			}
		}
		data, err := json.MarshalIndent(a.Statement(self), "", "  ")
		if err != nil {
			return err
		}
		name := f.Prefix + path.Base(a.File)
		if named {
			ext := path.Ext(name)
			name = strings.TrimSuffix(name, ext) + "." + inName(f.Platform) + ext
		}
		if names[name] {
			return fmt.Errorf("duplicate attestation path name %s", name)
		}
		names[name] = true
		err = sink.Add(&layer.Entry{
			Path: name, Mode: unix.S_IFREG | 0o600, Size: int64(len(data)), ModTime: time.Now(), Content: memory(data),
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// fileSubjects are the regular files of a tree with their digests.
func fileSubjects(t layer.Tree) ([]Subject, error) {
	subjects := []Subject{}
	err := layer.Walk(t, ".", func(e *layer.Entry) error {
		if !e.IsRegular() {
			return nil
		}
		d := e.Digest
		if d == "" {
			r, err := layer.Open(t, e.Path)
			if err != nil {
				return err
			}
			d, err = digest.FromReader(r)
			if err := errors.Join(err, r.Close()); err != nil {
				return err
			}
		}
		subjects = append(subjects, Subject{Name: e.Path, Digest: digestSet(d)})
		return nil
	})
	return subjects, err
}

// memory is content that is in memory.
type memory []byte

// Open implements layer.Content.
func (m memory) Open() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(m)), nil }
