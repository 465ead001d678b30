package control

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"strings"
	"sync"

	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/client"
	"github.com/opencontainers/go-digest"
)

// How a log is held: what is not written yet is in memory.
const (
	logPiece = 64 << 10 // is written at once
	// mostUnwritten is how much waits in memory while it cannot be written. Output is dropped then, and later the rest.
	mostUnwritten = 1 << 20
	maxEvent      = 32 << 20 // of one event in a file that is read
	// maxOutput is how much output a message has at most: gRPC takes a megabyte for one of more than 32 kB, as long as it is on
	// its way, and it is on its way as long as its client does not read.
	maxOutput = 24 << 10
)

// eventLog is what a build tells, in the form of BuildKit's records (application/vnd.buildkit.status.v0): StatusResponses, each after its
// length in four bytes, the lowest first. It takes events from many goroutines, and any number of readers follow it, each at its own
// pace: what was written they read from the file, so that none of them holds anything but its place.
type eventLog struct {
	create func() (*os.File, error)

	mu      sync.Mutex
	file    *os.File // nil as long as all is in memory
	written int64    // bytes of the file
	rest    []byte   // what comes after them
	sum     hash.Hash
	lost    int64         // bytes that were dropped
	err     error         // of the last attempt to write
	more    chan struct{} // closed when something comes; nil when nobody waits
	ended   bool
	kept    bool // somebody may begin to read
	readers int
	counts  counts
}

// counts are the numbers of steps, as records of builds have them.
type counts struct {
	total, cached, completed, warnings int32

	steps map[digest.Digest]stepCount
}

// stepCount says what of a step was counted; vertex is its last state, once it has started.
type stepCount struct {
	cached, completed bool
	vertex            *client.Vertex
}

func (c *counts) add(s *client.SolveStatus) {
	if c.steps == nil {
		c.steps = map[digest.Digest]stepCount{}
	}
	c.warnings += int32(len(s.Warnings))
	for _, v := range s.Vertexes {
		step, known := c.steps[v.Digest]
		if !known {
			c.total++
		}
		if v.Cached && !step.cached {
			c.cached++
			step.cached = true
		}
		if v.Completed != nil && !step.completed {
			c.completed++
			step.completed = true
		}
		if v.Started != nil {
			step.vertex = v
		}
		c.steps[v.Digest] = step
	}
}

// newEventLog makes a log, whose file create makes when it is needed.
func newEventLog(create func() (*os.File, error)) *eventLog {
	return &eventLog{create: create, sum: sha256.New(), kept: true}
}

// Write implements progress.Sink. After the end of the log it drops what comes.
func (l *eventLog) Write(s *client.SolveStatus) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return
	}
	l.counts.add(s)
	validate(s)
	outputs := s.Logs
	if s.Logs = nil; len(s.Vertexes)+len(s.Statuses)+len(s.Warnings) > 0 {
		l.append(s, 2*mostUnwritten)
	}
	for _, out := range outputs {
		for data := out.Data; len(data) > 0; {
			piece := *out
			piece.Data = data[:min(len(data), maxOutput)]
			data = data[len(piece.Data):]
			l.append(&client.SolveStatus{Logs: []*client.VertexLog{&piece}}, mostUnwritten)
		}
	}
	if len(l.rest) >= logPiece {
		l.flush()
	}
	l.wake()
}

// validText is a text that a message may have: names of files, and so errors, may be anything.
func validText(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

// validate makes texts of an event such as messages may have.
func validate(s *client.SolveStatus) {
	for _, v := range s.Vertexes {
		v.Name, v.Error = validText(v.Name), validText(v.Error)
	}
	for _, st := range s.Statuses {
		st.ID, st.Name = validText(st.ID), validText(st.Name)
	}
	for _, w := range s.Warnings {
		w.URL = validText(w.URL)
	}
}

// append adds an event, unless more than some bytes would wait to be written. The lock is held.
func (l *eventLog) append(s *client.SolveStatus, most int) {
	for _, r := range s.Marshal() {
		n := r.SizeVT()
		if len(l.rest)+4+n > most {
			if l.flush(); len(l.rest) > 0 {
				l.lost += int64(n)
				continue
			}
		}
		l.rest = binary.LittleEndian.AppendUint32(l.rest, uint32(n))
		at := len(l.rest)
		l.rest = append(l.rest, make([]byte, n)...)
		if _, err := r.MarshalToSizedBufferVT(l.rest[at:]); err != nil {
			l.rest = l.rest[:at-4]
		}
	}
}

// wake wakes the readers that wait. The lock is held.
func (l *eventLog) wake() {
	if l.more != nil {
		close(l.more)
		l.more = nil
	}
}

// flush writes what is in memory, if there is space for it. The lock is held.
func (l *eventLog) flush() {
	if l.file == nil {
		if l.file, l.err = l.create(); l.err != nil {
			l.file = nil
			return
		}
	}
	if _, l.err = l.file.WriteAt(l.rest, l.written); l.err != nil {
		return // of what is in the file only what was written counts
	}
	l.written += int64(len(l.rest))
	l.sum.Write(l.rest)
	if l.rest = l.rest[:0]; cap(l.rest) > 2*logPiece {
		l.rest = nil
	}
}

// end ends the log. Readers come to their end when they have read it.
func (l *eventLog) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
	l.wake()
}

// save writes all of a log that has ended to its file, and describes it.
func (l *eventLog) save() (sum digest.Digest, size int64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.flush(); l.err != nil {
		return "", 0, fmt.Errorf("writing the log of a build: %w", l.err)
	}
	if err := l.file.Truncate(l.written); err != nil { // what could not be written whole
		return "", 0, fmt.Errorf("writing the log of a build: %w", err)
	}
	return digest.NewDigest(digest.SHA256, l.sum), l.written, nil
}

// forget says that nobody begins to read any more.
func (l *eventLog) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.kept = false
	l.drop()
}

// drop lets go of the file that nobody reads. The lock is held.
func (l *eventLog) drop() {
	if l.kept || l.readers > 0 {
		return
	}
	if l.file != nil {
		_ = l.file.Close() // what was to be written is
	}
	l.file, l.rest = nil, nil
}

// follow hands all events to send, those that come later when they come, until the log or the context ends. It is false when the
// log is no more.
func (l *eventLog) follow(ctx context.Context, send func(*controlapi.StatusResponse) error) (there bool, err error) {
	l.mu.Lock()
	if there = l.kept; there {
		l.readers++
	}
	l.mu.Unlock()
	if !there {
		return false, nil
	}
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.readers--
		l.drop()
	}()
	var at int64
	buf := make([]byte, logPiece)
	for {
		n, more, err := l.read(buf, at)
		if err != nil {
			return true, err
		}
		if n == 0 {
			if more == nil {
				return true, nil
			}
			select {
			case <-more:
				continue
			case <-ctx.Done():
				return true, context.Cause(ctx)
			}
		}
		used, need, err := eachEvent(buf[:n], send)
		if err != nil {
			return true, err
		}
		at += int64(used)
		if used == 0 {
			buf = make([]byte, need)
		}
	}
}

// read reads what comes after some bytes. When there is nothing, more is closed when there is; it is nil at the end.
func (l *eventLog) read(buf []byte, at int64) (n int, more <-chan struct{}, err error) {
	l.mu.Lock()
	if at >= l.written {
		defer l.mu.Unlock()
		if n = copy(buf, l.rest[min(at-l.written, int64(len(l.rest))):]); n > 0 || l.ended {
			return n, nil, nil
		}
		if l.more == nil {
			l.more = make(chan struct{})
		}
		return 0, l.more, nil
	}
	file, left := l.file, l.written-at
	l.mu.Unlock()
	n, err = file.ReadAt(buf[:min(int64(len(buf)), left)], at) // which is not closed while there is a reader
	if n > 0 {
		err = nil
	}
	if err != nil {
		return 0, nil, fmt.Errorf("reading the log of a build: %w", err)
	}
	return n, nil, nil
}

// eachEvent calls send for each whole event in data, and tells how many bytes they took, or if none is whole how many the
// first one takes.
func eachEvent(data []byte, send func(*controlapi.StatusResponse) error) (used, need int, err error) {
	for len(data)-used >= 4 {
		n := int(binary.LittleEndian.Uint32(data[used:]))
		if n > maxEvent {
			return used, 0, errors.New("reading the log of a build: it is damaged")
		}
		if len(data)-used-4 < n {
			return used, 4 + n, nil
		}
		var r controlapi.StatusResponse
		if err := r.UnmarshalVT(data[used+4 : used+4+n]); err != nil {
			return used, 0, fmt.Errorf("reading the log of a build: %w", err)
		}
		if err := send(&r); err != nil {
			return used, 0, err
		}
		used += 4 + n
	}
	return used, logPiece, nil
}

// replay hands all events of a log that has ended to send.
func replay(ctx context.Context, r io.Reader, send func(*controlapi.StatusResponse) error) error {
	buf := make([]byte, logPiece)
	have := 0
	for {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		n, err := r.Read(buf[have:])
		have += n
		used, need, serr := eachEvent(buf[:have], send)
		if serr != nil {
			return serr
		}
		have = copy(buf, buf[used:have])
		if errors.Is(err, io.EOF) {
			return nil // what is cut off is not told
		}
		if err != nil {
			return fmt.Errorf("reading the log of a build: %w", err)
		}
		if need > len(buf) {
			buf = append(buf, make([]byte, need-len(buf))...)
		}
	}
}
