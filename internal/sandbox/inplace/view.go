package inplace

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/hostfiles"
	"github.com/slipway-build/slipway/internal/layer"
)

// Inode is a file of one filesystem.
type Inode struct{ Dev, Ino uint64 }

// View is a tree in the root directory.
type View struct {
	// Above is whose directories are that have to be made above what is put at a path; nil: slipway's. Who may give nothing away makes all of them his.
	Above *layer.Owner

	m       *Machine
	t       *Tree
	lock    int // the open file that is locked
	unlock  func()
	show    func()          // the machine's own files to the rest of this process
	host    int             // a directory with what is the container's own
	device  map[string]bool // what is in the directories of devices
	placed  []placed
	secrets []secret
	owner   layer.Owner                 // whom what is new belongs to, where that cannot be seen
	links   map[uint64]layer.LinkRecord // what owners of links are, by their inodes
	held    int                         // a directory for what was in the place of something
	heldAt  string
	binds   []bind
	moved   []string // relative paths of what was renamed or changed here
	before  stamps   // what these were when the step had ended
	Hidden  []string // paths of the tree that cannot be shown
	// StandsFor has the directories that belong to somebody else, and what those of the tree are that they stand for.
	StandsFor map[Inode]layer.Record
	begun     bool // the container's own files are being moved
	inside    bool // what is in the root directory, and does not stay, is the step's
}

// Enter shows a tree in the root directory. Until [View.Leave] nobody else does.
func (m *Machine) Enter(ctx context.Context, t *Tree) (v *View, err error) {
	select {
	case <-m.turn:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	v = &View{m: m, t: t, before: stamps{}, held: -1, host: -1, show: hostfiles.Hide()}
	if v.lock, v.unlock, err = m.lock(ctx); err != nil {
		v.show()
		m.turn <- struct{}{}
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("showing a step its root filesystem: %w", err), v.Leave())
		}
	}()
	if err := m.recover(); err != nil { // of another process that died meanwhile
		return v, err
	}
	if err := m.lookAround(); err != nil {
		return v, err
	}
	if err := m.write(journal{}); err != nil {
		return v, err
	}
	host, err := m.makeDir(m.dir, hostName)
	if err != nil {
		return v, err
	}
	v.host = host.fd
	v.begun = true
	clear(m.copies)
	if err = m.hostOut(m.root, host.fd, "."); err == nil {
		err = m.write(journal{Step: true})
		v.inside = err == nil
	}
	if err == nil {
		err = v.stepIn(t.fd, m.root, ".")
	}
	if err == nil {
		var top look
		if top, err = lookOf(t.fd); err == nil {
			err = v.note(m.root, top)
		}
	}
	if err == nil {
		v.device, err = m.devices()
	}
	return v, err
}

// Leave puts everything back where it was.
func (v *View) Leave() error {
	m := v.m
	var out error // of what has to be before the container's own comes back
	var errs []error
	if v.inside {
		errs = append(errs, v.unplace(), m.dropDevices(v.device))
		if out = m.stepOut(m.root, v.t.fd, ".", v.before); out == nil {
			out = m.write(journal{})
		}
	}
	if out == nil && v.begun {
		out = m.hostIn()
	}
	if v.host >= 0 {
		unix.Close(v.host)
	}
	v.unlock()
	v.show()
	m.turn <- struct{}{}
	if err := errors.Join(append(errs, out)...); err != nil {
		v.t.broken = true
		return fmt.Errorf("putting back the container's own files: %w", err)
	}
	return nil
}

// Owned says whom new files belong to where there are not enough IDs, and what the step said of links and the like.
func (v *View) Owned(owner layer.Owner, links []layer.LinkRecord) {
	v.owner, v.links = owner, map[uint64]layer.LinkRecord{}
	for _, l := range links {
		v.links[l.Inode] = l
	}
}

// Lock is a descriptor that is to be open as long as a process uses the view.
func (v *View) Lock() int { return v.lock }

// Stays reports whether something of the container's is at a path that cannot be put aside.
func (v *View) Stays(path string) bool { return v.m.stays[strings.TrimPrefix(path, "/")] }

// Has reports whether the tree has a directory at a path.
func (v *View) Has(path string) bool {
	e := v.t.now.find(strings.TrimPrefix(path, "/"))
	return e != nil && e.dir != nil
}

// Host reads a short file of the container's own; one that is missing is empty.
func (v *View) Host(path string) (string, error) {
	fd, err := unix.Openat2(v.host, path, &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS})
	if errors.Is(err, unix.ENOENT) {
		return "", nil
	}
	if err != nil {
		return "", &os.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, 1<<20))
	return string(text), err
}
