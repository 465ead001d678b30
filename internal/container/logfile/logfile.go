// Package logfile keeps what a container prints, in files of a bounded size.
//
// # Structure
//
// A log is a file of lines, each an [Entry] as JSON in the form of Docker's json-file driver, and the file before it, NAME.1: when the file
// has reached its size it takes that one's place. [Writer] writes it (one process does), [Read] reads it, and follows it, also beside the writer.
//
// # Caveats
//
// What does not fit onto the disk is lost, and the process that printed it is not stopped by that.
package logfile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// DefaultSize is how large each of the two files may become, in bytes.
const DefaultSize = 10 << 20

// maxText is how much of a line is one entry, in bytes, as in Docker's.
const maxText = 16 << 10

// The names of streams.
const (
	Stdout = "stdout"
	Stderr = "stderr"
)

// Entry is a line, with its end, or a part of one.
type Entry struct {
	Log    string    `json:"log"`
	Data   []byte    `json:"data,omitempty"` // in the place of Log, where that is no UTF-8
	Stream string    `json:"stream"`
	Time   time.Time `json:"time"`
}

// Bytes are what was printed.
func (e *Entry) Bytes() []byte {
	if e.Data != nil {
		return e.Data
	}
	return []byte(e.Log)
}

// Writer writes a log. It is safe for concurrent use.
type Writer struct {
	path string
	max  int64

	mu   sync.Mutex
	f    *os.File // nil: there is none to write to
	size int64
	half bool // the file ends in a part of a line
}

// Open opens a log to go on with it, and makes it if there is none. max is how large a file may become, in bytes.
func Open(path string, max int64) (*Writer, error) {
	w := &Writer{path: path, max: max}
	return w, w.open()
}

func (w *Writer) open() error {
	f, err := os.OpenFile(w.path, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("opening a log: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		return errors.Join(fmt.Errorf("opening a log: %w", err), f.Close())
	}
	w.f, w.size = f, info.Size()
	last := []byte{'\n'}
	if w.size > 0 {
		_, err = f.ReadAt(last, w.size-1)
	}
	w.half = err == nil && last[0] != '\n' // a killed process has left it
	return nil
}

// write appends; what does not fit is lost, and of a line that did in part the rest: the next one begins behind its end.
func (w *Writer) write(data []byte) {
	if w.half {
		data = append([]byte{'\n'}, data...)
	}
	n, _ := w.f.Write(data)
	w.size += int64(n)
	if n > 0 {
		w.half = data[n-1] != '\n'
	}
}

// add writes an entry.
func (w *Writer) add(stream string, text []byte, now time.Time) {
	e := Entry{Log: string(text), Stream: stream, Time: now.UTC()}
	if !utf8.Valid(text) {
		e.Log, e.Data = "", text
	}
	var line bytes.Buffer
	enc := json.NewEncoder(&line)
	enc.SetEscapeHTML(false)
	if enc.Encode(&e) != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.f == nil {
		return
	}
	if w.size > 0 && w.size+int64(line.Len()) > w.max {
		w.rotate()
	}
	if w.f != nil {
		w.write(line.Bytes())
	}
}

// rotate begins another file.
func (w *Writer) rotate() {
	err := os.Rename(w.path, w.path+".1")
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // it cannot grow all the same
		err = w.f.Truncate(0)
		w.size, w.half = 0, false
		if err == nil {
			return
		}
	}
	_ = w.f.Close() // nothing is held back in it
	w.f = nil
	_ = w.open() // without a file the rest is lost
}

// Close ends the log.
func (w *Writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.f == nil {
		return nil
	}
	f := w.f
	w.f = nil
	return f.Close()
}

// Stream is what is printed to one of the streams. It never fails.
type Stream struct {
	w    *Writer
	name string

	mu   sync.Mutex
	held []byte // the beginning of a line
}

// Stream returns a writer of a stream's.
func (w *Writer) Stream(name string) *Stream { return &Stream{w: w, name: name} }

// Write implements io.Writer.
func (s *Stream) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	s.held = append(s.held, p...)
	rest := s.held
	for len(rest) > 0 {
		n := bytes.IndexByte(rest, '\n') + 1
		if n == 0 && len(rest) < maxText {
			break
		}
		if n == 0 || n > maxText {
			n = maxText
		}
		s.w.add(s.name, rest[:n], now)
		rest = rest[n:]
	}
	s.held = append(s.held[:0], rest...)
	return len(p), nil
}

// Flush writes a line that has no end.
func (s *Stream) Flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.held) > 0 {
		s.w.add(s.name, s.held, time.Now())
	}
	s.held = nil
}

// Append adds an entry to a log that several processes write to, which becomes no larger than max bytes and an entry.
func Append(path string, max int64, e Entry) error {
	var line bytes.Buffer
	enc := json.NewEncoder(&line)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(&e); err != nil {
		return fmt.Errorf("writing a log: %w", err)
	}
	for {
		again, err := appendLine(path, max, line.Bytes())
		if err != nil {
			return fmt.Errorf("writing a log: %w", err)
		}
		if !again {
			return nil
		}
	}
}

// appendLine is one try: again says that another process has begun another file, or that this one has.
func appendLine(path string, max int64, line []byte) (again bool, err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, f.Close()) }() // which unlocks it
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return false, os.NewSyscallError("flock", err)
	}
	own, err := f.Stat()
	if err != nil {
		return false, err
	}
	now, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !os.SameFile(own, now) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	if own.Size() >= max {
		return true, os.Rename(path, path+".1")
	}
	last := []byte{'\n'}
	if own.Size() > 0 {
		if _, err := f.ReadAt(last, own.Size()-1); err != nil {
			return false, err
		}
	}
	if last[0] != '\n' { // a killed process has left half a line
		line = append([]byte{'\n'}, line...)
	}
	_, err = f.Write(line)
	return false, err
}
