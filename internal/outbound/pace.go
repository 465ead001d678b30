package outbound

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// Pace is how slow a server may be with the body of an answer.
type Pace struct {
	Stall  time.Duration // the longest time without a byte
	Rate   int64         // the least bytes in a second, on average over each Window
	Window time.Duration
}

// DefaultPace has the rate of git's http.lowSpeedLimit as it is usually set.
var DefaultPace = Pace{Stall: 30 * time.Second, Rate: 1000, Window: time.Minute}

// ErrSlow marks a body that comes slower than is put up with.
var ErrSlow = errors.New("the server is too slow")

// slowError says how slow.
type slowError struct{ text string }

func (e *slowError) Error() string { return e.text }
func (e *slowError) Unwrap() error { return ErrSlow }

// Body makes the body of an answer fail when it comes slower than p allows. What counts is the time
// that is spent waiting for the server, however slow the reader is. cancel ends the request.
func (p Pace) Body(body io.ReadCloser, cancel context.CancelCauseFunc) io.ReadCloser {
	return &pacedBody{ReadCloser: body, pace: p, cancel: cancel, now: time.Now}
}

type pacedBody struct {
	io.ReadCloser
	pace   Pace
	cancel context.CancelCauseFunc
	now    func() time.Time

	waited time.Duration // in this window
	got    int64         // in this window
}

// Read implements io.Reader.
func (b *pacedBody) Read(p []byte) (int, error) {
	stalled := &slowError{fmt.Sprintf("the server has sent nothing for %s", b.pace.Stall)}
	watch := time.AfterFunc(b.pace.Stall, func() { b.cancel(stalled) })
	start := b.now()
	n, err := b.ReadCloser.Read(p)
	if !watch.Stop() && err != nil && err != io.EOF {
		return n, stalled
	}
	b.got += int64(n)
	b.waited += b.now().Sub(start)
	if err != nil || b.waited < b.pace.Window {
		return n, err
	}
	if float64(b.got) < float64(b.pace.Rate)*b.waited.Seconds() {
		err = &slowError{fmt.Sprintf("the server has sent %d bytes in %s, less than %d in a second", b.got, b.waited.Round(time.Second), b.pace.Rate)}
		b.cancel(err)
		return n, err
	}
	b.waited, b.got = 0, 0
	return n, nil
}

// Close implements io.Closer.
func (b *pacedBody) Close() error {
	err := b.ReadCloser.Close()
	b.cancel(context.Canceled)
	return err
}
