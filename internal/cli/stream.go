package cli

import (
	"context"
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/terminal"
)

// stream is standard output or standard error. It cancels the context when nobody reads what is
// written any more. On a terminal nothing is shown that the terminal would obey, wherever it came
// from: what draws (a progress display, a container's own output) takes it as it is, with [raw].
type stream struct {
	io.Writer
	under  io.Writer
	broken func()
}

// newStream wraps w; ctx comes from withSignals.
func newStream(ctx context.Context, w io.Writer) io.Writer {
	s := &stream{Writer: w, under: w, broken: func() { interrupt(ctx, unix.SIGPIPE) }}
	if isTerminal(w) {
		s.Writer = terminal.NewWriter(w)
	}
	return s
}

func (s *stream) Write(b []byte) (int, error) {
	n, err := s.Writer.Write(b)
	if errors.Is(err, unix.EPIPE) {
		s.broken()
	}
	return n, err
}

// raw is a stream without anything that changes what is written.
func raw(w io.Writer) io.Writer {
	if s, ok := w.(*stream); ok {
		return &stream{Writer: s.under, under: s.under, broken: s.broken}
	}
	return w
}

// fileOf returns the file that a stream is, or nil.
func fileOf(w any) *os.File {
	if s, ok := w.(*stream); ok {
		w = s.under
	}
	f, _ := w.(*os.File)
	return f
}

// terminalOf returns the file of a stream that is a terminal, or nil.
func terminalOf(w any) *os.File {
	if f := fileOf(w); f != nil && isTTY(f) {
		return f
	}
	return nil
}

func isTerminal(w any) bool { return terminalOf(w) != nil }
