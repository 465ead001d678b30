package docker

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/moby/moby/api/types"
	"github.com/moby/term"
	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/container"
	"github.com/slipway-build/slipway/internal/container/host"
	"github.com/slipway-build/slipway/internal/container/logfile"
	"github.com/slipway-build/slipway/internal/sandbox"
)

// muxed writes one of the streams of a process into a connection that has all of them: eight bytes say which, and how many follow.
type muxed struct {
	to     io.Writer
	mu     *sync.Mutex
	stream byte
}

// Write implements io.Writer.
func (m muxed) Write(p []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	frame := append(binary.BigEndian.AppendUint32([]byte{m.stream, 0, 0, 0}, uint32(len(p))), p...)
	if _, err := m.to.Write(frame); err != nil {
		return 0, err
	}
	return len(p), nil
}

// streamsTo are the two streams in a connection; with a terminal there is one, as it is.
func streamsTo(to io.Writer, terminal bool) (stdout, stderr io.Writer) {
	if terminal {
		return to, to
	}
	mu := &sync.Mutex{}
	return muxed{to, mu, 1}, muxed{to, mu, 2}
}

// streamType is the type of such a connection.
func (r *request) streamType(terminal bool) string {
	if terminal || r.before("1.42") {
		return types.MediaTypeRawStream
	}
	return types.MediaTypeMultiplexedStream
}

// hijack takes the connection of a request and says that it is one of streams now. What the client has sent already is read first, but for a body of
// the request, which is no input of a process: some clients send the parameters once more.
func (r *request) hijack(terminal bool) (net.Conn, io.Reader, error) {
	switch {
	case r.ContentLength > maxDocument:
		return nil, nil, failure{http.StatusRequestEntityTooLarge, fmt.Sprintf("the document has more than %d bytes", maxDocument)}
	case r.ContentLength > 0:
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return nil, nil, invalidf("reading the request: %v", err)
		}
	}
	conn, buf, err := http.NewResponseController(r.w).Hijack()
	if err != nil {
		return nil, nil, invalidf("streams need a connection of HTTP/1.1: %v", err)
	}
	r.began = true
	head := "HTTP/1.1 200 OK\r\nContent-Type: " + r.streamType(terminal) + "\r\n\r\n"
	if r.Header.Get("Upgrade") != "" {
		head = "HTTP/1.1 101 UPGRADED\r\nContent-Type: " + r.streamType(terminal) + "\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
	}
	if _, err := io.WriteString(conn, head); err != nil {
		return nil, nil, errors.Join(err, conn.Close())
	}
	early := make([]byte, buf.Reader.Buffered())
	_, err = io.ReadFull(buf.Reader, early)
	return conn, io.MultiReader(bytes.NewReader(early), conn), err
}

// joining says how a client's connection is joined to the streams of a process.
type joining struct {
	terminal, stdin bool
	raw             bool            // the output has no frames
	keys            string          // that let go of a terminal; "" are Docker's
	ended           func(host.Exit) // is told of the end before the client is; may be nil
}

// join joins a client's connection to a session until the process ends or the client is gone.
func join(ctx context.Context, conn net.Conn, in io.Reader, s *host.Session, j joining) (host.Exit, error) {
	defer conn.Close()
	defer s.Close()
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	over := make(chan struct{})
	defer close(over)
	go func() {
		if !j.stdin {
			_, _ = io.Copy(io.Discard, in)
		} else {
			s.Input(escaping(in, j, s))
		}
		waitGone(conn, over, s)
	}()
	stdout, stderr := streamsTo(conn, j.raw)
	exit, err := s.Output(stdout, stderr)
	if errors.Is(err, io.ErrUnexpectedEOF) { // it was killed with who ran it
		exit = host.Exit{Code: 137}
	}
	if j.ended != nil && (err == nil || errors.Is(err, io.ErrUnexpectedEOF)) {
		j.ended(exit)
	}
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite() // the client sees the end, also while it sends
	}
	return exit, err
}

// escaping ends a session when the keys for that are typed.
func escaping(in io.Reader, j joining, s *host.Session) io.Reader {
	if !j.terminal {
		return in
	}
	keys := j.keys
	if keys == "" {
		keys = "ctrl-p,ctrl-q"
	}
	sequence, err := term.ToBytes(keys)
	if err != nil {
		return in
	}
	return &escape{term.NewEscapeProxy(in, sequence), s}
}

type escape struct {
	io.Reader
	s *host.Session
}

// Read implements io.Reader.
func (e *escape) Read(p []byte) (int, error) {
	n, err := e.Reader.Read(p)
	var typed term.EscapeError
	if errors.As(err, &typed) {
		e.s.Close()
	}
	return n, err
}

// goneTime is how often a client that sends no more is looked at.
const goneTime = 200 * time.Millisecond

// waitGone ends a session whose client sends no more when it does not read any more either: only the kernel knows.
func waitGone(conn net.Conn, over chan struct{}, s *host.Session) {
	if secure, ok := conn.(interface{ NetConn() net.Conn }); ok { // of TLS
		conn = secure.NetConn()
	}
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return
	}
	for {
		select {
		case <-over:
			return
		case <-time.After(goneTime):
		}
		gone := false
		err := raw.Control(func(fd uintptr) {
			fds := []unix.PollFd{{Fd: int32(fd)}}
			_, _ = unix.Poll(fds, 0)
			gone = fds[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0
		})
		if err != nil || gone {
			s.Close()
			return
		}
	}
}

// attachContainer answers POST /containers/NAME/attach.
func (s *Server) attachContainer(ctx context.Context, r *request) error {
	if _, err := term.ToBytes(r.FormValue("detachKeys")); err != nil && r.FormValue("detachKeys") != "" {
		return invalidf("Invalid detach keys (%s) provided: %v", r.FormValue("detachKeys"), err)
	}
	if r.ContentLength < 0 { // the process would get the chunks as they are
		r.w.Header().Set("Connection", "close") // nobody waits for their end
		return invalidf("a body of this request needs a Content-Length: what is for the process follows the head of the answer")
	}
	ctx, m, c, err := r.usable(ctx)
	if err != nil {
		return err
	}
	config, err := container.ReadConfig(c)
	if err != nil {
		return err
	}
	want := host.Streams{Stdin: r.flag("stdin") && config.OpenStdin, Stdout: r.flag("stdout"), Stderr: r.flag("stderr")}
	var session *host.Session
	if r.flag("stream") {
		if session, err = m.Attach(ctx, c, want); err != nil {
			return err
		}
	}
	ctx = r.letGo()
	conn, in, err := r.hijack(config.Terminal)
	if err != nil {
		if session != nil {
			session.Close()
		}
		return err
	}
	if r.flag("logs") {
		stdout, stderr := streamsTo(conn, config.Terminal)
		err = m.Logs(ctx, c, logfile.Options{Stdout: want.Stdout, Stderr: want.Stderr, Tail: -1}, func(e *logfile.Entry) error {
			to := stdout
			if e.Stream == logfile.Stderr {
				to = stderr
			}
			_, err := to.Write(e.Bytes())
			return err
		})
		if err != nil {
			s.opt.Warn(fmt.Sprintf("%s: %v", r.path, err))
		}
	}
	if session == nil {
		return conn.Close()
	}
	_, err = join(ctx, conn, in, session, joining{terminal: config.Terminal, raw: config.Terminal, stdin: want.Stdin, keys: r.FormValue("detachKeys")}) // the end is told by wait
	if errors.Is(err, io.ErrUnexpectedEOF) {
		s.opt.Warn(r.path + ": the client was too slow, or who ran the container was killed: the rest of the output is in the log")
	}
	return nil
}

// logOptions are those of GET /containers/NAME/logs.
func (r *request) logOptions() (o logfile.Options, err error) {
	o = logfile.Options{Stdout: r.flag("stdout"), Stderr: r.flag("stderr"), Tail: -1, Follow: r.flag("follow")}
	if !o.Stdout && !o.Stderr {
		return o, invalidf("Bad parameters: you must choose at least one stream")
	}
	if o.Since, _, err = r.moment("since"); err != nil {
		return o, err
	}
	until, given, err := r.moment("until")
	if given && until.Unix() != 0 {
		o.Until = until
	}
	if n, err := strconv.Atoi(r.FormValue("tail")); err == nil {
		o.Tail = n
	}
	return o, err
}

// containerLogs answers GET /containers/NAME/logs.
func (s *Server) containerLogs(ctx context.Context, r *request) error {
	o, err := r.logOptions()
	if err != nil {
		return err
	}
	ctx, m, c, err := r.container(ctx)
	if err != nil {
		return err
	}
	config, err := container.ReadConfig(c)
	if err != nil {
		return err
	}
	ctx = r.letGo()
	if config.Log.Driver != "none" {
		r.began = true
		r.w.Header().Set("Content-Type", r.streamType(config.Terminal))
		r.w.WriteHeader(http.StatusOK)
	}
	flush := http.NewResponseController(r.w)
	if o.Follow && r.began {
		if err := flush.Flush(); err != nil {
			return err
		}
	}
	stdout, stderr := streamsTo(r.w, config.Terminal)
	err = m.Logs(ctx, c, o, func(e *logfile.Entry) error {
		to, data := stdout, e.Bytes()
		if e.Stream == logfile.Stderr {
			to = stderr
		}
		if r.flag("timestamps") {
			data = append([]byte(e.Time.Format("2006-01-02T15:04:05.000000000Z07:00")+" "), data...)
		}
		_, err := to.Write(data)
		if err == nil && o.Follow {
			err = flush.Flush()
		}
		return err
	})
	if errors.Is(err, container.ErrNoLog) {
		return failure{http.StatusNotImplemented, err.Error()}
	}
	if err != nil && ctx.Err() != nil {
		return nil // the client is gone, or the server ends
	}
	return err
}

// answerPart writes a document that others may follow.
func (r *request) answerPart(v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if !r.began {
		r.began = true
		r.w.Header().Set("Content-Type", "application/json")
		r.w.WriteHeader(http.StatusOK)
	}
	if _, err := r.w.Write(append(data, '\n')); err != nil {
		return err
	}
	return http.NewResponseController(r.w).Flush()
}

// resizeContainer answers POST /containers/NAME/resize.
func (s *Server) resizeContainer(ctx context.Context, r *request) error {
	size, err := r.size()
	if err != nil {
		return err
	}
	_, m, c, err := r.container(ctx)
	if err != nil {
		return err
	}
	if !m.State(c.ID).Running {
		return fmt.Errorf("cannot resize a stopped container: %w", notRunning(c.ID))
	}
	if err := m.Resize(c, "", size); err != nil {
		return err
	}
	s.events.looked(c, "resize", map[string]string{"height": fmt.Sprint(size.Rows), "width": fmt.Sprint(size.Cols)})
	return r.ok()
}

// notRunning is the error of a container that does not run.
func notRunning(id string) error {
	return failure{http.StatusConflict, "container " + id + " is not running"}
}

// ok answers with no document.
func (r *request) ok() error {
	r.began = true
	r.w.Header().Set("Content-Length", "0")
	r.w.WriteHeader(http.StatusOK)
	return nil
}

// sizeOf is a size that a document has: height and width.
func sizeOf(z [2]uint) sandbox.WinSize {
	return sandbox.WinSize{Rows: uint16(min(z[0], math.MaxUint16)), Cols: uint16(min(z[1], math.MaxUint16))}
}

// size is that of a terminal, of the parameters h and w.
func (r *request) size() (z sandbox.WinSize, err error) {
	for _, p := range []struct {
		name, what string
		to         *uint16
	}{{"h", "height", &z.Rows}, {"w", "width", &z.Cols}} {
		n, err := strconv.ParseUint(r.FormValue(p.name), 10, 32)
		if err != nil {
			why := "invalid syntax"
			if _, number := strconv.Atoi(r.FormValue(p.name)); number == nil {
				why = "value out of range"
			}
			return z, invalidf("invalid resize %s %q: %s", p.what, r.FormValue(p.name), why)
		}
		*p.to = uint16(min(n, math.MaxUint16))
	}
	return z, nil
}
