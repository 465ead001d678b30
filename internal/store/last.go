package store

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/atomicfile"
)

// Which builds of one thing there were last is a file of last/, to which each of them adds a line. Nothing else knows of it: what it says
// of builds whose records are gone counts for nothing, and goes when records are pruned.

// LastBuild is a build of some thing. Exact and Like tell apart what it is of the thing: builds with the same Exact are the same, and
// those with the same Like nearly so. Builds with the same Graph have left the same graph; "" is not known, and that of an earlier boot is not,
// whose files may not be on the disk. They are words without spaces.
type LastBuild struct{ ID, Exact, Like, Graph string }

// line is a build as a line of a file.
func (b *LastBuild) line(boot string) string {
	line := b.ID + " " + b.Exact + " " + b.Like
	if b.Graph != "" {
		line += " " + b.Graph + boot
	}
	return line + "\n"
}

// bootSuffix ends the words that count in this boot alone.
func (s *Store) bootSuffix() string { return "-" + digest.FromString(s.boot).Encoded()[:8] }

// maxLast is how many bytes of such a file are read: its end.
const maxLast = 64 << 10

func (s *Store) lastFile(thing string) string {
	return filepath.Join(s.root, "last", digest.FromString(thing).Encoded()[:32])
}

// AddLast notes that a build was one of some thing.
func (s *Store) AddLast(thing string, b LastBuild) error {
	path := s.lastFile(thing)
	open := func() (*os.File, error) {
		return os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	}
	f, err := open()
	if errors.Is(err, fs.ErrNotExist) {
		if err = os.Mkdir(filepath.Dir(path), 0o700); err == nil || errors.Is(err, fs.ErrExist) {
			f, err = open()
		}
	}
	if err != nil {
		return err
	}
	_, err = f.WriteString(b.line(s.bootSuffix())) // at once: others add theirs before or after it
	return errors.Join(err, f.Close())
}

// LastBuilds lists the builds of some thing, the newest first. The records of some may be gone.
func (s *Store) LastBuilds(thing string) []LastBuild {
	all := s.readLast(s.lastFile(thing))
	slices.Reverse(all)
	return all
}

// readLast reads such a file. What is damaged is passed over.
func (s *Store) readLast(path string) (all []LastBuild) {
	f, err := OpenRegular(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil
	}
	data, err := io.ReadAll(io.NewSectionReader(f, max(0, fi.Size()-maxLast), maxLast))
	if err != nil {
		return nil
	}
	boot := s.bootSuffix()
	for line := range bytes.Lines(data) {
		line = bytes.TrimLeft(line, "\x00") // lines before it that a loss of power took
		words := strings.Fields(string(line))
		if len(words) < 3 || len(words) > 4 || !isBuildName(words[0]) || !bytes.HasSuffix(line, []byte("\n")) {
			continue
		}
		b := LastBuild{ID: words[0], Exact: words[1], Like: words[2]}
		if len(words) > 3 {
			b.Graph, _ = strings.CutSuffix(words[3], boot)
			if b.Graph == words[3] {
				b.Graph = ""
			}
		}
		all = append(all, b)
	}
	return all
}

// forgetLast takes builds without records out of what is known of the last ones. What a build adds meanwhile may get lost, and only what
// explains misses with it.
func (s *Store) forgetLast() error {
	dir := filepath.Join(s.root, "last")
	files, err := readDir(dir)
	if err != nil {
		return nil //nolint:nilerr // it is made with the first build
	}
	for _, e := range files {
		path := filepath.Join(dir, e.Name())
		all := slices.DeleteFunc(s.readLast(path), func(b LastBuild) bool { return !isDir(filepath.Join(s.root, "builds", b.ID)) })
		if len(all) == 0 {
			err = errors.Join(err, os.RemoveAll(path))
			continue
		}
		err = errors.Join(err, atomicfile.Write(path, atomicfile.Options{Mode: 0o600}, func(f *os.File) error {
			var text strings.Builder
			for _, b := range all {
				text.WriteString(b.line(s.bootSuffix()))
			}
			_, err := f.WriteString(text.String())
			return err
		}))
	}
	return err
}
