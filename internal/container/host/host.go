// Package host is what the process that runs a container does for others: it gives them the container's streams, and starts more processes in it.
//
// # Structure
//
// A [Host] listens at a socket in the container's directory. A client (client.go) sends a request on a connection of its own and gets an
// answer; what is said then is frames of the streams (frame.go), and how the process has ended. The host also writes the log.
//
// # Caveats
//
// Who may connect may do in the container what the process may that runs it. The socket lies in the store, which is its owner's alone, and
// the kernel is asked who a client is. Whatever a client sends is checked as if that were not so.
package host

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/slipway-build/slipway/internal/container/logfile"
	"github.com/slipway-build/slipway/internal/sandbox"
)

// Options say what a host is of. Exec and Tell are required.
type Options struct {
	Dir string // the container's
	ID  string // the container's
	Log *logfile.Writer
	// Terminal, OpenStdin and StdinOnce are the container's: with the last one its input ends with that of the first client that has one.
	Terminal, OpenStdin, StdinOnce bool
	// Exec runs one more process in the container, as [sandbox.Runner] does.
	Exec func(ctx context.Context, p *sandbox.Process, streams sandbox.IO) error
	// Start has the container run, and returns when its program was executed; nil where it runs anyway.
	Start func() error
	// Tell tells of what happens: an action in Docker's words.
	Tell func(action string, attributes map[string]string)
}

// maxBehind is how much of the output waits for a client that does not read, in bytes, before the process waits.
const maxBehind = 1 << 20

// lastWords is how long a client may take for the rest of the output when the container has ended, and for each piece of it when a process in it has: one that
// takes longer loses it.
const lastWords = 10 * time.Second

// Host is a container's. It is safe for concurrent use.
type Host struct {
	opt    Options
	l      *net.UnixListener
	ctx    context.Context
	cancel context.CancelFunc
	served sync.WaitGroup

	stdout, stderr *logfile.Stream // nil without a log
	stdin          *io.PipeReader
	toStdin        *io.PipeWriter
	sizes          chan sandbox.WinSize

	mu       sync.Mutex
	over     bool          // nothing is begun any more
	clients  map[*conn]int // those that are connected
	attached []*attachment
	execs    map[string]*exec
	order    []string      // of execs
	left     chan struct{} // has one when the last client has gone
}

// Listen makes a host. Nobody else may be one in the directory: who calls it holds a lock.
func Listen(opt Options) (*Host, error) {
	l, err := listen(opt.Dir)
	if err != nil {
		return nil, err
	}
	h := &Host{opt: opt, l: l, sizes: make(chan sandbox.WinSize, 1), clients: map[*conn]int{}, execs: map[string]*exec{}, left: make(chan struct{}, 1)}
	h.ctx, h.cancel = context.WithCancel(context.Background())
	h.stdin, h.toStdin = io.Pipe()
	if opt.Log != nil {
		h.stdout, h.stderr = opt.Log.Stream(logfile.Stdout), opt.Log.Stream(logfile.Stderr)
	}
	h.served.Go(h.accept)
	return h, nil
}

// Streams are the container's: what goes to the host, and to base as well.
func (h *Host) Streams(base sandbox.IO) sandbox.IO {
	streams := base
	one := base.Stdout != nil && base.Stdout == base.Stderr
	streams.Stdout = &output{h, frameStdout, h.stdout, base.Stdout}
	streams.Stderr = &output{h, frameStderr, h.stderr, base.Stderr}
	if one {
		streams.Stderr = streams.Stdout
	}
	if h.opt.OpenStdin && base.Stdin == nil {
		streams.Stdin = h.stdin
	}
	if base.Resize == nil {
		streams.Resize = h.sizes
	}
	used := base.Used
	streams.Used = func(u sandbox.Usage) {
		h.ended()
		if used != nil {
			used(u)
		}
	}
	return streams
}

// ended has those who are behind not be waited for: the container's end is noted when its output is in the log.
func (h *Host) ended() {
	h.mu.Lock()
	all := h.attached
	h.mu.Unlock()
	for _, a := range all {
		a.hurry(true)
	}
}

// output is one of the container's streams.
type output struct {
	h    *Host
	kind byte
	log  *logfile.Stream // may be nil
	base io.Writer       // may be nil
}

// Write implements io.Writer. It waits for clients that are too far behind.
func (o *output) Write(p []byte) (int, error) {
	if o.log != nil {
		_, _ = o.log.Write(p) // it never fails
	}
	o.h.mu.Lock()
	all := o.h.attached
	o.h.mu.Unlock()
	for _, a := range all {
		a.put(o.kind, p)
	}
	if o.base != nil {
		return o.base.Write(p)
	}
	return len(p), nil
}

// Left has a message when the last client has gone.
func (h *Host) Left() <-chan struct{} { return h.left }

// Clients is how many are connected.
func (h *Host) Clients() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.clients)
}

// Leave ends a host whose container was not started, if nobody is connected any more.
func (h *Host) Leave() bool {
	h.mu.Lock()
	idle := len(h.clients) == 0
	if idle {
		h.over = true
	}
	h.mu.Unlock()
	if idle {
		h.close()
	}
	return idle
}

// Exit is how a process has ended.
type Exit struct {
	Code  int    `json:"code"`
	Error string `json:"error,omitempty"` // why it could not be run
}

// Flush writes lines that have no end into the log.
func (h *Host) Flush() {
	for _, s := range []*logfile.Stream{h.stdout, h.stderr} {
		if s != nil {
			s.Flush()
		}
	}
}

// End tells clients how the container has ended, and ends the host. Processes that were started in the container have ended with it.
func (h *Host) End(e Exit) {
	h.mu.Lock()
	h.over = true
	all := h.attached
	h.attached = nil
	h.mu.Unlock()
	h.Flush()
	var told sync.WaitGroup
	for _, a := range all {
		told.Go(func() { a.end(e) })
	}
	told.Wait()
	h.close()
}

func (h *Host) close() {
	_ = h.stdin.CloseWithError(io.ErrClosedPipe)
	h.cancel()
	_ = h.l.Close() // it is removed with the container, or made anew
	h.mu.Lock()
	for c := range h.clients {
		_ = c.CloseRead() // what they were told is theirs still
	}
	h.mu.Unlock()
	h.served.Wait()
}

// accept serves clients until the host is closed.
func (h *Host) accept() {
	for {
		u, err := h.l.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // no descriptors, say
			select {
			case <-h.ctx.Done():
			case <-time.After(50 * time.Millisecond):
			}
			continue
		}
		if !trusted(u) {
			_ = u.Close()
			continue
		}
		c := newConn(u)
		h.mu.Lock()
		h.clients[c] = 1
		h.mu.Unlock()
		h.served.Go(func() {
			h.serve(c)
			_ = c.Close()
			h.mu.Lock()
			delete(h.clients, c)
			last := len(h.clients) == 0
			h.mu.Unlock()
			if last {
				select {
				case h.left <- struct{}{}:
				default:
				}
			}
		})
	}
}
