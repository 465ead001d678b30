package logfile

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"
)

// maxLine bounds a line of the file, in bytes: text of an entry with each byte escaped, and what stands around it.
const maxLine = 6*maxText + 1024

// poll is how often a log that is followed is looked at.
const poll = 50 * time.Millisecond

// Options choose entries.
type Options struct {
	Stdout, Stderr bool
	Tail           int // the last ones of those that are there; negative: all
	Since, Until   time.Time
	Follow         bool
	// Alive reports whether more may be written. A log is followed until it says no.
	Alive func() bool
}

// wants reports whether an entry is chosen.
func (o *Options) wants(e *Entry) bool {
	return (o.Stdout && e.Stream == Stdout || o.Stderr && e.Stream == Stderr) &&
		!e.Time.Before(o.Since) && (o.Until.IsZero() || !e.Time.After(o.Until))
}

// Read gives the entries of a log, the oldest first. A log that is not there has none. What is no entry, as half a line of a process that
// was killed, is left out.
func Read(ctx context.Context, path string, o Options, give func(*Entry) error) error {
	r := &reader{path: path}
	defer r.close()
	alive := o.Follow && o.Alive() // before the first look: what is written after it is seen by the next one
	if err := r.begin(); err != nil {
		return err
	}
	if err := r.past(&o, give); err != nil {
		return err
	}
	for o.Follow {
		if !o.Until.IsZero() && time.Now().After(o.Until) {
			return nil
		}
		if !alive {
			return r.rest(&o, give)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(poll):
		}
		alive = o.Alive()
		if err := r.rest(&o, give); err != nil {
			return err
		}
	}
	return nil
}

// reader reads the files of a log one after the other.
type reader struct {
	path string
	f    *os.File // nil before there is one
	buf  *bufio.Reader
	half []byte // of a line that is being written
	skip bool   // the line is too long
}

func (r *reader) close() {
	if r.f != nil {
		_ = r.f.Close() // it was only read
	}
}

// begin opens the oldest file.
func (r *reader) begin() error {
	if err := r.open(r.path + ".1"); err != nil || r.f != nil {
		return err
	}
	return r.open(r.path)
}

// open opens another file; one that is not there changes nothing.
func (r *reader) open(path string) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading a log: %w", err)
	}
	r.close()
	r.f, r.buf, r.half, r.skip = f, bufio.NewReaderSize(f, 64<<10), nil, false
	return nil
}

// past gives what is there: all, or the last entries.
func (r *reader) past(o *Options, give func(*Entry) error) error {
	if o.Tail < 0 {
		return r.rest(o, give)
	}
	var last []*Entry
	err := r.rest(o, func(e *Entry) error {
		if last = append(last, e); len(last) > o.Tail {
			last = last[1:]
		}
		return nil
	})
	for _, e := range last {
		if err == nil {
			err = give(e)
		}
	}
	return err
}

// rest gives what has come since, to the end of the newest file.
func (r *reader) rest(o *Options, give func(*Entry) error) error {
	for {
		if r.f != nil {
			if err := r.lines(o, give); err != nil {
				return err
			}
		}
		more, err := r.next()
		if err != nil || !more {
			return err
		}
	}
}

// next goes on with the file that follows the one that was read, if there is one.
func (r *reader) next() (bool, error) {
	now, err := os.Stat(r.path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("reading a log: %w", err)
	}
	if r.f == nil {
		return true, r.open(r.path)
	}
	own, err := r.f.Stat()
	if err != nil {
		return false, fmt.Errorf("reading a log: %w", err)
	}
	if os.SameFile(own, now) {
		return false, nil
	}
	if at, err := r.f.Seek(0, io.SeekCurrent); err == nil && at < own.Size() {
		return true, nil // what was written before it was renamed
	}
	before, err := os.Stat(r.path + ".1")
	if err == nil && !os.SameFile(own, before) { // that one followed it
		return true, r.open(r.path + ".1")
	}
	return true, r.open(r.path)
}

// lines gives the whole lines up to the end of the file.
func (r *reader) lines(o *Options, give func(*Entry) error) error {
	for {
		part, err := r.buf.ReadSlice('\n')
		whole := err == nil
		if !r.skip {
			r.half = append(r.half, part...)
		}
		if len(r.half) > maxLine {
			r.half, r.skip = nil, true
		}
		if whole {
			line, skip := r.half, r.skip
			r.half, r.skip = nil, false
			if e := parse(line); !skip && e != nil && o.wants(e) {
				if err := give(e); err != nil {
					return err
				}
			}
			continue
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		return fmt.Errorf("reading a log: %w", err)
	}
}

// parse reads a line; nil is that it is no entry.
func parse(line []byte) *Entry {
	var e Entry
	if len(bytes.TrimSpace(line)) == 0 || json.Unmarshal(line, &e) != nil {
		return nil
	}
	return &e
}
