package progress

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/moby/buildkit/client"
	"github.com/opencontainers/go-digest"
	"github.com/tonistiigi/units"
)

// LogLimits are what a log keeps of each stream of a step.
var LogLimits = Limits{Size: 64 << 20, Speed: -1}

// maxLine is how much of a line waits for its end before it is written as a line.
const maxLine = 64 << 10

// flushPeriod is how much time passes at most until a reader of the file sees what was written.
const flushPeriod = 100 * time.Millisecond

// Log is a Sink that writes all events as text, as a record that people read: the plain form of
// BuildKit's display, but each line as it comes and with the number of its step. It is written by
// those who tell the events, so that nobody is faster than it. Close ends it.
type Log struct {
	mu      sync.Mutex
	w       *bufio.Writer
	streams *streams
	steps   map[digest.Digest]*logStep
	text    []byte // of the line that is being made
	waiting bool   // for the file to be written
	closed  bool
}

// logStep is a step as the log knows it.
type logStep struct {
	number   int
	started  time.Time
	partial  map[int]*partialLine // by the number of the stream
	statuses map[string]time.Time // when each was written last
}

// partialLine is a line without its end.
type partialLine struct {
	text []byte
	at   time.Time // when it began
}

// NewLog starts a log on w, which stays the caller's to close, after Close.
func NewLog(w io.Writer) *Log {
	shown := newStreams(LogLimits)
	shown.lines = true
	return &Log{w: bufio.NewWriterSize(w, 64<<10), streams: shown, steps: map[digest.Digest]*logStep{}}
}

// Write writes an event. After Close it is dropped.
func (l *Log) Write(s *client.SolveStatus) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	for _, s := range l.streams.pass(s) {
		l.event(s)
	}
	if !l.waiting && l.w.Buffered() > 0 {
		l.waiting = true
		time.AfterFunc(flushPeriod, l.flush)
	}
}

// flush writes the file. An error stays, and Close tells it.
func (l *Log) flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting = false
	if !l.closed {
		_ = l.w.Flush()
	}
}

// Close writes what is left and returns the first error of writing.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	if err := l.w.Flush(); err != nil {
		return fmt.Errorf("writing build log: %w", err)
	}
	return nil
}

func (l *Log) event(s *client.SolveStatus) {
	for _, v := range s.Vertexes {
		l.vertex(v)
	}
	for _, st := range s.Statuses {
		if step := l.steps[st.Vertex]; step != nil {
			l.status(step, st)
		}
	}
	for _, w := range s.Warnings {
		if step := l.steps[w.Vertex]; step != nil {
			l.line(step, fmt.Appendf(nil, "WARN: %s", w.Short))
		}
	}
	for _, out := range s.Logs {
		if step := l.steps[out.Vertex]; step != nil {
			l.output(step, out)
		}
	}
}

func (l *Log) vertex(v *client.Vertex) {
	step := l.steps[v.Digest]
	if step == nil && v.Started != nil {
		step = &logStep{number: len(l.steps) + 1, started: *v.Started, partial: map[int]*partialLine{}, statuses: map[string]time.Time{}}
		l.steps[v.Digest] = step
		if step.number > 1 {
			_ = l.w.WriteByte('\n')
		}
		l.line(step, []byte(v.Name))
	}
	if step == nil || v.Completed == nil {
		return
	}
	for stream := 1; stream <= 2; stream++ {
		l.endLine(step, step.partial[stream])
	}
	switch {
	case strings.HasSuffix(v.Error, context.Canceled.Error()):
		l.line(step, []byte("CANCELED"))
	case v.Error != "":
		l.line(step, []byte("ERROR: "+v.Error))
	case v.Cached:
		l.line(step, []byte("CACHED"))
	default:
		l.line(step, fmt.Appendf(nil, "DONE %.1fs", v.Completed.Sub(*v.Started).Seconds()))
	}
}

// statusPeriod is the time between two lines about the same status.
const statusPeriod = 5 * time.Second

func (l *Log) status(step *logStep, st *client.VertexStatus) {
	if strings.HasPrefix(st.ID, again) {
		l.line(step, []byte(st.ID))
		return
	}
	last, known := step.statuses[st.ID]
	if known && st.Completed == nil && st.Timestamp.Sub(last) < statusPeriod {
		return
	}
	step.statuses[st.ID] = st.Timestamp
	text := st.ID
	if st.Total != 0 {
		text += fmt.Sprintf(" %.2f / %.2f", units.Bytes(st.Current), units.Bytes(st.Total))
	} else if st.Current != 0 {
		text += fmt.Sprintf(" %.2f", units.Bytes(st.Current))
	}
	if st.Started != nil && st.Completed != nil {
		text += fmt.Sprintf(" %.1fs done", st.Completed.Sub(*st.Started).Seconds())
	}
	l.line(step, []byte(text))
}

// output writes the lines that end in a piece of output.
func (l *Log) output(step *logStep, out *client.VertexLog) {
	p := step.partial[out.Stream]
	if p == nil {
		p = &partialLine{}
		step.partial[out.Stream] = p
	}
	for data := out.Data; len(data) > 0; {
		if len(p.text) == 0 {
			p.at = out.Timestamp
		}
		text, rest, ended := bytes.Cut(data, []byte("\n"))
		p.text, data = append(p.text, text...), rest
		if ended || len(p.text) >= maxLine {
			l.timedLine(step, p)
		}
	}
}

// endLine writes a line that has no end.
func (l *Log) endLine(step *logStep, p *partialLine) {
	if p != nil && len(p.text) > 0 {
		l.timedLine(step, p)
	}
}

// timedLine writes a line of output with the seconds since its step began.
func (l *Log) timedLine(step *logStep, p *partialLine) {
	sec := p.at.Sub(step.started).Seconds()
	precision := 1
	switch {
	case sec < 10:
		precision = 3
	case sec < 100:
		precision = 2
	}
	l.text = append(strconv.AppendFloat(l.text[:0], sec, 'f', precision, 64), ' ')
	l.text = append(l.text, p.text...)
	p.text = p.text[:0]
	l.line(step, l.text)
}

// line writes one line. An error stays, and Close tells it.
func (l *Log) line(step *logStep, text []byte) {
	_ = l.w.WriteByte('#')
	_, _ = l.w.Write(strconv.AppendInt(l.w.AvailableBuffer(), int64(step.number), 10))
	_ = l.w.WriteByte(' ')
	_, _ = l.w.Write(text)
	_ = l.w.WriteByte('\n')
}
