package layer

import (
	"errors"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// mostLooks bounds how often a file is looked at that is another one each time.
const mostLooks = 100

// WalkLive is [Walk] for a tree that a process changes meanwhile. What is gone before it was looked at is left out, a
// directory that is gone has nothing in it. Only the object at name has to stay. With contents, a file is open when fn
// gets it, so that it is the one that was described: its content can be opened once, before fn returns.
func WalkLive(t Tree, name string, contents bool, fn func(*Entry) error) error {
	e, err := t.Lstat(name)
	if err != nil {
		return err
	}
	w := &liveWalk{t: t, start: name, contents: contents, fn: fn}
	if err = w.walk(e); err == fs.SkipAll {
		return nil
	}
	return err
}

type liveWalk struct {
	t        Tree
	start    string
	contents bool
	fn       func(*Entry) error
}

// gone reports whether there is nothing at a path any more, where that may be.
func (w *liveWalk) gone(name string, err error) bool { return name != w.start && isMissing(err) }

func (w *liveWalk) walk(e *Entry) error {
	name := e.Path
	for look := 1; ; look++ {
		held, done, err := w.hold(e)
		if err == nil {
			err = w.visit(held)
			if cerr := done(); err == nil {
				err = cerr
			}
			return err
		}
		if look == mostLooks || !isMissing(err) && !errors.Is(err, ErrChanged) {
			return err
		}
		if e, err = w.t.Lstat(name); err != nil { // what has taken its place
			if w.gone(name, err) {
				return nil
			}
			return err
		}
	}
}

func (w *liveWalk) visit(e *Entry) error {
	if err := w.fn(e); err != nil {
		if err == fs.SkipDir && e.IsDir() {
			return nil
		}
		return err
	}
	if !e.IsDir() {
		return nil
	}
	entries, err := w.t.ReadDir(e.Path)
	if err != nil {
		if w.gone(e.Path, err) {
			return nil
		}
		return err
	}
	for _, c := range entries {
		if err := w.walk(c); err != nil {
			return err
		}
	}
	return nil
}

// hold opens the content of a file that may change.
func (w *liveWalk) hold(e *Entry) (held *Entry, done func() error, err error) {
	f, ok := e.Content.(*hostFile)
	if !ok || f.tree.opt.Immutable || !w.contents {
		return e, func() error { return nil }, nil
	}
	h := &heldFile{hostFile: f}
	if h.fd, err = f.open(); err != nil {
		return nil, nil, err
	}
	c := *e
	c.Content = h
	return &c, h.close, nil
}

// heldFile is a file of a directory that is open until somebody reads it.
type heldFile struct {
	*hostFile
	fd int // -1: it was opened
}

// take gives the descriptor away.
func (h *heldFile) take() (int, error) {
	fd := h.fd
	if h.fd = -1; fd < 0 {
		return -1, pathError("open", h.HostPath(), fs.ErrClosed)
	}
	return fd, nil
}

// Open implements [Content].
func (h *heldFile) Open() (io.ReadCloser, error) {
	fd, err := h.take()
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), h.HostPath()), nil
}

func (h *heldFile) close() error {
	if h.fd < 0 {
		return nil
	}
	return os.NewSyscallError("close", unix.Close(h.fd))
}
