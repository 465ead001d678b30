package host

import (
	"errors"
	"fmt"
	"time"

	"github.com/slipway-build/slipway/internal/sandbox"
)

// patience is how long a client may take for its request.
const patience = 10 * time.Second

// request is what a client wants.
type request struct {
	Op     string           `json:"op"` // start, attach, create, exec, inspect, resize
	Exec   string           `json:"exec,omitempty"`
	Create *ExecOptions     `json:"create,omitempty"`
	Want   Streams          `json:"want,omitzero"`
	Detach bool             `json:"detach,omitempty"`
	Size   *sandbox.WinSize `json:"size,omitempty"`
}

// Streams are those that a client has.
type Streams struct{ Stdin, Stdout, Stderr bool }

// answer is what a client is told of its request.
type answer struct {
	Error string `json:"error,omitempty"`
	Kind  string `json:"kind,omitempty"` // of the error
	Exec  *Exec  `json:"exec,omitempty"`
}

// errOver is the error of a host whose container has ended.
var errOver = errors.New("the container has ended")

// serve answers a client.
func (h *Host) serve(c *conn) {
	_ = c.SetReadDeadline(time.Now().Add(patience))
	var q request
	if err := c.hear(frameRequest, &q); err != nil {
		return
	}
	_ = c.SetReadDeadline(time.Time{})
	switch q.Op {
	case "start":
		h.reply(c, nil, h.start())
	case "attach":
		h.attach(c, q.Want)
	case "create":
		e, err := h.create(q.Create)
		if err == nil {
			h.tellExec("exec_create", e, nil)
		}
		h.reply(c, e, err)
	case "exec":
		h.runExec(c, &q)
	case "inspect":
		e, err := h.inspect(q.Exec)
		h.reply(c, e, err)
	case "resize":
		h.reply(c, nil, h.resize(q.Exec, q.Size))
	default:
		h.reply(c, nil, fmt.Errorf("unknown request %q", q.Op))
	}
}

// reply answers; a client that is gone misses nothing.
func (h *Host) reply(c *conn, e *Exec, err error) {
	a := answer{Exec: e}
	if err != nil {
		a.Error, a.Kind = err.Error(), kindOf(err)
	}
	_ = c.tell(frameAnswer, a)
}

func (h *Host) isOver() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.over
}

func (h *Host) start() error {
	switch {
	case h.isOver():
		return errOver
	case h.opt.Start == nil:
		return ErrRuns
	}
	return h.opt.Start()
}

// attach has a client get what the container prints from now on.
func (h *Host) attach(c *conn, want Streams) {
	a := newAttachment(c, want)
	h.mu.Lock()
	over := h.over
	if !over {
		h.attached = append(h.attached[:len(h.attached):len(h.attached)], a)
	}
	h.mu.Unlock()
	if over {
		h.reply(c, nil, errOver)
		return
	}
	h.reply(c, nil, nil)
	h.opt.Tell("attach", nil)
	go a.run()
	var to *inbox
	if want.Stdin && h.opt.OpenStdin {
		to = newInbox(h.toStdin, func() {
			if h.opt.StdinOnce && !h.opt.Terminal {
				_ = h.toStdin.Close()
			}
		})
	}
	if input(c, to) { // it may read still
		_, _, _ = c.receive()
	}
	if !h.isOver() {
		a.drop()
		h.forget(a)
	}
	<-a.done
}

// forget gives a client nothing any more.
func (h *Host) forget(gone *attachment) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var kept []*attachment
	for _, a := range h.attached {
		if a != gone {
			kept = append(kept, a)
		}
	}
	h.attached = kept
}

// input takes what a client types, which may be nobody's, until it says that this is all, or is gone.
func input(c *conn, to *inbox) (ended bool) {
	if to != nil {
		defer to.end()
	}
	for {
		kind, data, err := c.receive()
		switch {
		case err != nil:
			return false
		case kind == frameClose:
			return true
		case kind == frameStdin && to != nil && !to.put(data, c.gone):
			return false
		}
	}
}

// resize sets the size of a terminal: the container's, or that of a process with an ID.
func (h *Host) resize(id string, size *sandbox.WinSize) error {
	if size == nil {
		return errors.New("a size is missing")
	}
	sizes := h.sizes
	if id != "" {
		e, err := h.exec(id)
		if err != nil {
			return err
		}
		sizes = e.sizes
	}
	setSize(sizes, *size)
	return nil
}

// setSize puts a size where the newest one counts.
func setSize(sizes chan sandbox.WinSize, size sandbox.WinSize) {
	for {
		select {
		case sizes <- size:
			return
		default:
		}
		select {
		case <-sizes:
		default:
		}
	}
}
