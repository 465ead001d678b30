package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/console"
	"golang.org/x/sys/unix"
)

// drainTime is how long output is still read after everything in the container is dead. Its
// pipes are at their end then, so this only guards against a writer of ours that blocks after
// the context's end.
const drainTime = 500 * time.Millisecond

// wires connect a process's streams to those of the caller. The caller's never reach the
// process themselves: it gets the ends of pipes, or of a pseudo-terminal.
type wires struct {
	streams IO
	ends    [3]*opened     // the process's, nil where there is no stream
	theirs  []io.Closer    // all of them, to be closed once it has them
	ours    []io.Closer    // our ends
	copying sync.WaitGroup // of output
	listens bool           // it is to be known whether output comes
	outputs []*listened
	console console.Console
}

// wire makes the ends, but not those of a terminal. With listens the end can be waited for by [wires.untilSilent].
func wire(terminal bool, streams IO, listens bool) (*wires, error) {
	w := &wires{streams: streams, listens: listens}
	if terminal {
		return w, nil
	}
	var err error
	if w.ends[0], w.ends[1], w.ends[2], err = w.pipes(); err != nil {
		w.close()
		return nil, err
	}
	return w, nil
}

// pipes makes the process's ends of pipes; nil for streams that are nil.
func (w *wires) pipes() (stdin, stdout, stderr *opened, err error) {
	if w.streams.Stdin != nil {
		if stdin, err = w.input(w.streams.Stdin); err != nil {
			return nil, nil, nil, err
		}
	}
	if w.streams.Stdout != nil {
		if stdout, err = w.output(w.streams.Stdout); err != nil {
			return nil, nil, nil, err
		}
	}
	switch {
	case w.streams.Stderr == nil:
	case sameWriter(w.streams.Stdout, w.streams.Stderr):
		stderr = stdout // one pipe keeps the order, and the writer has one caller at a time
	default:
		if stderr, err = w.output(w.streams.Stderr); err != nil {
			return nil, nil, nil, err
		}
	}
	return stdin, stdout, stderr, nil
}

// give gives the process's ends of pipes to the root of its user namespace, which gives them to its user.
func (w *wires) give(m *idMap) error {
	if m == nil {
		return nil
	}
	for _, f := range w.ends {
		if f == nil {
			continue
		}
		if err := unix.Fchown(f.fd, m.uid, m.gid); err != nil {
			return fmt.Errorf("preparing the process's streams: %w", err)
		}
	}
	return nil
}

// input copies r to a pipe. Nobody waits for the copying: r may block for ever.
func (w *wires) input(r io.Reader) (*opened, error) {
	read, write, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("making a pipe: %w", err)
	}
	w.ours = append(w.ours, write)
	fd, err := unix.FcntlInt(read.Fd(), unix.F_DUPFD_CLOEXEC, 0) // Fd has made it blocking
	if err = errors.Join(err, read.Close()); err != nil {
		return nil, fmt.Errorf("making a pipe: %w", err)
	}
	end := &opened{fd, "pipe"}
	w.theirs = append(w.theirs, end)
	go func() {
		_, _ = io.Copy(write, r) // the process may end before it has read all
		_ = write.Close()
	}()
	return end, nil
}

// output copies what is written to a pipe to dst.
func (w *wires) output(dst io.Writer) (*opened, error) {
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC); err != nil {
		return nil, fmt.Errorf("making a pipe: %w", os.NewSyscallError("pipe2", err))
	}
	write := &opened{ends[1], "pipe"}
	w.theirs = append(w.theirs, write)
	// Only ours does not block: Go waits for it.
	err := unix.SetNonblock(ends[0], true)
	read := os.NewFile(uintptr(ends[0]), "pipe")
	w.ours = append(w.ours, read)
	if err != nil {
		return nil, fmt.Errorf("making a pipe: %w", err)
	}
	w.copyOut(dst, read)
	return write, nil
}

// copyOut copies until the end. If dst takes no more, the rest is read and dropped, so that the
// process is not stopped by it.
func (w *wires) copyOut(dst io.Writer, from io.Reader) {
	src := from // a file may be copied by the kernel
	if w.listens {
		l := &listened{from: from, made: time.Now()}
		w.outputs, src = append(w.outputs, l), l
	}
	w.copying.Go(func() {
		if _, err := io.Copy(dst, src); err != nil {
			_, _ = io.Copy(io.Discard, src)
		}
	})
}

// listened is what a process prints. It knows since when nothing came, and nothing when who gets it is waited for.
type listened struct {
	from  io.Reader
	made  time.Time
	since atomic.Int64 // after made, when the read began that waits, in nanoseconds; 0 is none
	over  atomic.Bool  // it is at its end
}

// Read implements io.Reader.
func (l *listened) Read(p []byte) (int, error) {
	l.since.Store(max(1, int64(time.Since(l.made))))
	n, err := l.from.Read(p)
	if err != nil {
		l.over.Store(true)
	}
	l.since.Store(0)
	return n, err
}

// silent reports whether it is at its end, or nothing came since a moment.
func (l *listened) silent(moment time.Time) bool {
	since := l.since.Load()
	return l.over.Load() || since > 0 && l.made.Add(time.Duration(since)).Before(moment)
}

// untilSilent is a context that ends when the streams have been silent for a time since it was made, while somebody holds them. Who is slow to take what was
// printed does not make them silent.
func (w *wires) untilSilent(ctx context.Context, silence time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	began := time.Now()
	go func() {
		look := time.NewTicker(silence / 20)
		defer look.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-look.C:
			}
			moment := time.Now().Add(-silence)
			if moment.After(began) && !slices.ContainsFunc(w.outputs, func(l *listened) bool { return !l.silent(moment) }) {
				cancel()
				return
			}
		}
	}()
	return ctx, cancel
}

// sameWriter compares two writers as os/exec does.
func sameWriter(a, b io.Writer) (same bool) {
	defer func() { _ = recover() }() // incomparable types
	return a != nil && a == b
}

// started closes the process's ends, which it has or will never get.
func (w *wires) started() {
	for _, f := range w.theirs {
		_ = f.Close()
	}
	w.theirs = nil
}

// fetch takes the terminal that comes through a socket. If there is none, the process sees it hung up.
// What comes instead says why, and is left to be read.
func (w *wires) fetch(socket int) {
	var n int
	err := error(unix.EINTR)
	for errors.Is(err, unix.EINTR) {
		n, _, err = unix.Recvfrom(socket, make([]byte, 8), unix.MSG_PEEK)
	}
	if n != 1 {
		return
	}
	master, err := receiveFile(socket)
	if err != nil {
		return
	}
	if w.console, err = console.ConsoleFromFile(master); err != nil {
		_ = master.Close()
		return
	}
	w.attach(w.console)
}

// receiveFile takes the one descriptor that is sent through a socket.
func receiveFile(socket int) (*os.File, error) {
	control, n := make([]byte, unix.CmsgSpace(4)), 0
	err := error(unix.EINTR)
	for errors.Is(err, unix.EINTR) { // no more than one byte: what comes then is for others
		_, n, _, _, err = unix.Recvmsg(socket, make([]byte, 1), control, unix.MSG_CMSG_CLOEXEC)
	}
	if err != nil {
		return nil, fmt.Errorf("receiving a file: %w", err)
	}
	var fds []int
	messages, err := unix.ParseSocketControlMessage(control[:n])
	for i := range messages {
		got, rerr := unix.ParseUnixRights(&messages[i])
		fds, err = append(fds, got...), errors.Join(err, rerr)
	}
	if err == nil && len(fds) == 1 {
		return os.NewFile(uintptr(fds[0]), "terminal"), nil
	}
	for _, fd := range fds {
		err = errors.Join(err, unix.Close(fd))
	}
	return nil, fmt.Errorf("receiving a file: got %d: %w", len(fds), errors.Join(err, unix.EBADMSG))
}

// attach joins a terminal's master end to the streams.
func (w *wires) attach(master io.ReadWriteCloser) {
	w.ours = append(w.ours, master)
	out := w.streams.Stdout
	if out == nil {
		out = io.Discard
	}
	w.copyOut(out, ttyReader{master})
	if w.streams.Stdin != nil {
		go func() { _, _ = io.Copy(master, w.streams.Stdin) }() // as with pipes, nobody waits
	}
}

// ttyReader reads a terminal's master end, which fails with EIO when all slaves are closed.
type ttyReader struct{ io.Reader }

func (t ttyReader) Read(p []byte) (int, error) {
	n, err := t.Reader.Read(p)
	if errors.Is(err, unix.EIO) {
		err = io.EOF
	}
	return n, err
}

// resize sets the terminal's size.
func (w *wires) resize(size WinSize) {
	if w.console != nil {
		_ = w.console.Resize(console.WinSize{Height: size.Rows, Width: size.Cols}) // gone with the process
	}
}

// drain waits until all output has been written; not long once ctx has ended.
func (w *wires) drain(ctx context.Context) {
	done := make(chan struct{})
	go func() {
		w.copying.Wait()
		close(done)
	}()
	select {
	case <-done:
		return
	case <-ctx.Done():
	}
	select {
	case <-done:
	case <-time.After(drainTime):
	}
}

// close closes all that is still open.
func (w *wires) close() {
	for _, f := range w.theirs {
		_ = f.Close()
	}
	for _, f := range w.ours {
		_ = f.Close() // pipes and terminals: everything has been read
	}
}

// forward passes the context's end, signals and sizes on to a process until stop is called.
func forward(ctx context.Context, streams IO, w *wires, send func(unix.Signal)) (stop func()) {
	quit, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		done, signals, sizes := ctx.Done(), streams.Signals, streams.Resize
		for {
			select {
			case <-quit:
				return
			case <-done:
				send(unix.SIGKILL)
				done = nil
			case sig, ok := <-signals:
				if !ok {
					signals = nil
					continue
				}
				send(unix.Signal(sig))
			case size, ok := <-sizes:
				if !ok {
					sizes = nil
					continue
				}
				w.resize(size)
			}
		}
	}()
	return func() {
		close(quit)
		<-stopped
	}
}
