package filetrace

import (
	"bufio"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"os"

	"github.com/klauspost/compress/gzip"
)

// Summary is what is said of the files that a process and all that came of it have opened.
type Summary struct {
	Files    int `json:"files"`    // that were opened, with those that were executed
	Executed int `json:"executed"` // of them
	Listed   int `json:"listed"`   // directories that were opened
	// Lost is how often something was opened that is not told: the kernel's queue was full, a path was too long, a file could not be looked at.
	Lost int `json:"lost,omitempty"`
	// Mounts says that what mounts of layers show is told, too, at the paths where they are mounted.
	Mounts bool `json:"mounts,omitempty"`
	// Cut says that more was opened than is kept.
	Cut bool `json:"cut,omitempty"`
}

// Whole reports whether everything is told that was opened.
func (s *Summary) Whole() bool { return s != nil && s.Lost == 0 && !s.Cut }

// What is kept of one trace: entries, and bytes of their paths.
const (
	maxEntries = 500_000
	maxBytes   = 64 << 20
)

// Writer keeps a trace in a file: each kind of each path once, in the order in which they came. In memory there is a code of each. It is not safe for concurrent use.
type Writer struct {
	file  *os.File
	buf   *bufio.Writer
	zip   *gzip.Writer
	seed  maphash.Seed // a process cannot make up paths with the same code
	seen  map[uint64]struct{}
	bytes int
	sum   Summary
	err   error
}

// Create makes a writer of a file, which is there once the writer is closed. A file that is there is replaced.
func Create(path string) (*Writer, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	w := &Writer{file: f, seed: maphash.MakeSeed(), seen: map[uint64]struct{}{}}
	w.zip, err = gzip.NewWriterLevel(f, gzip.BestSpeed)
	w.buf = bufio.NewWriterSize(w.zip, 32<<10)
	return w, err
}

// Add adds an entry, and reports whether it was there before.
func (w *Writer) Add(k Kind, path string) (again bool) {
	var h maphash.Hash
	h.SetSeed(w.seed)
	_ = h.WriteByte(byte(k))
	_, _ = h.WriteString(path)
	code := h.Sum64()
	if _, again := w.seen[code]; again {
		return true
	}
	if len(w.seen) >= maxEntries || w.bytes+len(path) > maxBytes {
		w.sum.Cut = true
		return false
	}
	w.seen[code] = struct{}{}
	w.bytes += len(path)
	if k == Executed {
		w.sum.Executed++
	} else if k == Listed {
		w.sum.Listed++
	} else {
		w.sum.Files++
	}
	if w.err == nil {
		w.err = w.buf.WriteByte(byte(k))
		_, err := w.buf.WriteString(path)
		w.err = errors.Join(w.err, err, w.buf.WriteByte(0))
	}
	return false
}

// Close completes the file, with what a watch says of what was lost, and of mounts.
func (w *Writer) Close(lost int, mounts bool) (*Summary, error) {
	w.sum.Lost, w.sum.Mounts = lost, mounts
	err := errors.Join(w.err, w.buf.Flush(), w.zip.Close(), w.file.Close())
	if err != nil {
		return nil, fmt.Errorf("writing which files were opened: %w", err)
	}
	return &w.sum, nil
}

// Abort removes the file.
func (w *Writer) Abort() error { return errors.Join(w.file.Close(), os.Remove(w.file.Name())) }

// Read reads what a writer wrote. It stops at what is longer than any writer's.
func Read(r io.Reader, each func(Kind, string) error) error {
	zip, err := gzip.NewReader(r)
	if err != nil {
		return fmt.Errorf("reading which files were opened: %w", err)
	}
	in := bufio.NewReader(io.LimitReader(zip, maxBytes+2*maxEntries+1))
	for {
		entry, err := in.ReadString(0)
		if errors.Is(err, io.EOF) && entry == "" {
			return nil
		}
		if err != nil || len(entry) < 2 {
			return fmt.Errorf("reading which files were opened: it is damaged: %w", errors.Join(err, io.ErrUnexpectedEOF))
		}
		if err := each(Kind(entry[0]), entry[1:len(entry)-1]); err != nil {
			return err
		}
	}
}
