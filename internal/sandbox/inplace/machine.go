// Package inplace keeps the root filesystems of steps as trees of plain files and shows them in place of the root filesystem
// of the container that slipway runs in, where nothing can be mounted.
//
// # Structure
//
// A [Tree] is a root filesystem that a stage has by now, in a directory of its own ([Machine.Tree]). To run a step in it, its
// entries are renamed into the container's root directory, whose own are renamed away before ([Machine.Enter], swap.go); what
// the step's mounts show is put there as files, directories and links ([View], place.go). Afterwards everything goes back where
// it was, and what the step changed is found by the inodes, times and attributes of all files (scan.go, diff.go), and written
// as an overlay-native layer ([Tree.Save]).
//
// # Caveats
//
// Some paths stay where they are: mount points that lie in a directory which is not moved itself, and what is pinned.
// The directories above those are not renamed; what is in them is. A process that dies while a step runs leaves the step's
// files in the root directory: a journal says so, and whoever comes next puts them back ([Open]).
package inplace

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer"
)

// Options say where a machine is.
type Options struct {
	// Root is the directory in which steps see their files: "/"; tests have another one.
	Root string
	// Dir is where trees are, on the filesystem of Root. It is made if missing.
	Dir string
	// Pinned are absolute paths of what stays where it is while a step runs.
	Pinned []string
	// Before is called, if it is set, when it is sure that what is in Root is its own.
	Before func()
}

// Machine is a root directory in which steps run, one at a time: of this process, and of all others with the same Dir.
type Machine struct {
	opt       Options
	root, dir int    // descriptors
	own       string // this process's directory in dir
	ownFD     int
	owner     *os.File // locked as long as this process lives

	real      string      // Root without links
	fineClock func() bool // each change of a file has a time of its own

	turn chan struct{} // holds one value while nobody of this process has the root directory

	mu      sync.Mutex
	stays   map[string]bool  // paths relative to Root that are not moved
	through map[string]bool  // directories of which only what is in them is moved
	looks   map[string]look  // of those, while a step runs
	copies  map[inode]string // where files with several names are, of the container's own that are moved
	trees   []*Tree
	seq     int
}

const (
	hostName    = "host"    // what is the container's own while a step runs
	journalName = "journal" // there while a step runs
	lockName    = "lock"    // locked while a step runs
	ownerName   = "owner"
	processDir  = "process-"
)

// Open prepares a root directory, and puts back what processes that died have left in it.
func Open(ctx context.Context, opt Options) (m *Machine, err error) {
	m = &Machine{opt: opt, root: -1, dir: -1, ownFD: -1, turn: make(chan struct{}, 1), stays: map[string]bool{}, through: map[string]bool{}, looks: map[string]look{}, copies: map[inode]string{}}
	m.turn <- struct{}{}
	m.fineClock = sync.OnceValue(m.tryFineClock)
	defer func() {
		if err != nil {
			m.closeFiles()
			err = fmt.Errorf("preparing to run steps in %s: %w", opt.Root, err)
		}
	}()
	if err := os.MkdirAll(opt.Dir, 0o700); err != nil {
		return nil, err
	}
	if m.root, err = openDir(unix.AT_FDCWD, opt.Root); err != nil {
		return nil, &os.PathError{Op: "open", Path: opt.Root, Err: err}
	}
	if m.real, err = filepath.EvalSymlinks(opt.Root); err != nil {
		return nil, err
	}
	if m.dir, err = openDir(unix.AT_FDCWD, opt.Dir); err != nil {
		return nil, &os.PathError{Op: "open", Path: opt.Dir, Err: err}
	}
	if err := m.sameFilesystem(); err != nil {
		return nil, err
	}
	for _, path := range append([]string{opt.Dir}, opt.Pinned...) {
		m.pin(path)
	}
	_, unlock, err := m.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := m.recover(); err != nil {
		return nil, err
	}
	if err := m.sweep(); err != nil {
		return nil, err
	}
	if opt.Before != nil {
		opt.Before()
	}
	return m, m.makeOwn()
}

// sameFilesystem makes sure that something can be renamed from Dir to Root.
func (m *Machine) sameFilesystem() error {
	name := "slipway-" + rand.Text()
	if err := unix.Mkdirat(m.dir, name, 0o700); err != nil {
		return &os.PathError{Op: "mkdir", Path: filepath.Join(m.opt.Dir, name), Err: err}
	}
	err := unix.Renameat(m.dir, name, m.root, "."+name)
	switch {
	case err == nil:
		return os.NewSyscallError("rmdir", unix.Unlinkat(m.root, "."+name, unix.AT_REMOVEDIR))
	case errors.Is(err, unix.EXDEV):
		err = fmt.Errorf("%s is not on the filesystem of %s: choose a directory that is", m.opt.Dir, m.opt.Root)
	case errors.Is(err, unix.EROFS):
		err = fmt.Errorf("%s is read-only (readOnlyRootFilesystem?): steps need a root filesystem that can be written to", m.opt.Root)
	default:
		err = fmt.Errorf("%s cannot be written to: %w", m.opt.Root, err)
	}
	return errors.Join(err, unix.Unlinkat(m.dir, name, unix.AT_REMOVEDIR))
}

// Pin has more paths stay where they are, from the next step on. What does not exist is left out: a step may make it.
func (m *Machine) Pin(paths ...string) {
	<-m.turn
	for _, path := range paths {
		m.pin(path)
	}
	m.turn <- struct{}{}
}

// pin has a path stay, and every symbolic link on the way to it. A mount on the way stays as a whole: nothing is moved out of one.
func (m *Machine) pin(path string) {
	if _, err := os.Lstat(path); err != nil {
		return
	}
	for range 40 {
		rel, err := filepath.Rel(m.opt.Root, filepath.Clean(path))
		if err != nil || rel == "." || !filepath.IsLocal(rel) {
			return
		}
		parts := strings.Split(rel, "/")
		link := ""
		for i := range parts {
			at := filepath.Join(parts[:i+1]...)
			if target, err := os.Readlink(filepath.Join(m.opt.Root, at)); err == nil {
				m.stays[at] = true
				if !filepath.IsAbs(target) {
					target = filepath.Join(m.opt.Root, filepath.Dir(at), target)
				}
				link = filepath.Join(target, filepath.Join(parts[i+1:]...))
				break
			}
			if i < len(parts)-1 && !isMountPoint(unix.AT_FDCWD, filepath.Join(m.opt.Root, at)) {
				m.through[at] = true
			} else {
				m.stays[at] = true
				break
			}
		}
		if link == "" {
			return
		}
		path = link
	}
}

// makeOwn makes this process's directory.
func (m *Machine) makeOwn() (err error) {
	m.own = processDir + rand.Text()[:10]
	if err := unix.Mkdirat(m.dir, m.own, 0o700); err != nil {
		return &os.PathError{Op: "mkdir", Path: m.own, Err: err}
	}
	if m.ownFD, err = openDir(m.dir, m.own); err != nil {
		return &os.PathError{Op: "open", Path: m.own, Err: err}
	}
	fd, err := unix.Openat(m.ownFD, ownerName, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return &os.PathError{Op: "open", Path: ownerName, Err: err}
	}
	m.owner = os.NewFile(uintptr(fd), ownerName)
	return os.NewSyscallError("flock", unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB))
}

// sweep removes what processes have left that are dead.
func (m *Machine) sweep() error {
	names, err := readNames(m.dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		if !strings.HasPrefix(name, processDir) || m.lives(name) {
			continue
		}
		if err := layer.RemoveAll(filepath.Join(m.opt.Dir, name)); err != nil {
			return fmt.Errorf("removing what a process has left that is dead: %w", err)
		}
	}
	return nil
}

// lives reports whether the process of a directory lives.
func (m *Machine) lives(name string) bool {
	fd, err := unix.Openat(m.dir, name+"/"+ownerName, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return false // it is made under the lock
	}
	defer unix.Close(fd)
	return unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) != nil
}

// Close removes this process's trees.
func (m *Machine) Close() error {
	<-m.turn // for ever: no step comes any more
	m.mu.Lock()
	for _, t := range m.trees {
		t.close()
	}
	m.trees = nil
	m.mu.Unlock()
	err := layer.RemoveAll(filepath.Join(m.opt.Dir, m.own))
	m.closeFiles()
	return err
}

// Lock is a descriptor that is to be open as long as a process uses a tree that is not shown.
func (m *Machine) Lock() int { return int(m.owner.Fd()) }

func (m *Machine) closeFiles() {
	for _, fd := range []int{m.root, m.dir, m.ownFD} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
	if m.owner != nil {
		m.owner.Close()
	}
}

// lockWait is how often a lock is tried that another process has.
const lockWait = 20 * time.Millisecond

// lock waits until no process has the root directory.
func (m *Machine) lock(ctx context.Context) (fd int, unlock func(), err error) {
	if fd, err = m.lockFile(); err != nil {
		return -1, nil, err
	}
	for {
		err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return fd, func() { unix.Close(fd) }, nil
		case !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR):
			unix.Close(fd)
			return -1, nil, os.NewSyscallError("flock", err)
		}
		select {
		case <-ctx.Done():
			unix.Close(fd)
			return -1, nil, context.Cause(ctx)
		case <-time.After(lockWait):
		}
	}
}

func (m *Machine) lockFile() (int, error) {
	fd, err := unix.Openat(m.dir, lockName, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: filepath.Join(m.opt.Dir, lockName), Err: err}
	}
	return fd, nil
}

// journal tells what is in the root directory.
type journal struct {
	// Step: everything there that is not to stay is a step's. Otherwise it is the container's own, as far as it is not
	// put away.
	Step bool
	// Stays and Through are as the machine's.
	Stays, Through []string
	// Looks are how directories looked that stay, and of which only what is in them is moved.
	Looks map[string]look
	// Binds are directories that were renamed into the step's view, and where they belong.
	Binds []bind
}

type bind struct{ Source, At string }

// write replaces the journal, as a whole.
func (m *Machine) write(j journal) error {
	j.Looks = m.looks
	for path := range m.stays {
		j.Stays = append(j.Stays, path)
	}
	for path := range m.through {
		j.Through = append(j.Through, path)
	}
	text, err := json.Marshal(j)
	if err != nil {
		return err
	}
	path := filepath.Join(m.opt.Dir, journalName)
	if err = os.WriteFile(path+".new", text, 0o600); err == nil {
		err = os.Rename(path+".new", path)
	}
	return err
}

// recover puts back what a process that died has left. The caller has the lock.
func (m *Machine) recover() error {
	text, err := os.ReadFile(filepath.Join(m.opt.Dir, journalName))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	var j journal
	if err == nil {
		err = json.Unmarshal(text, &j)
	}
	if err != nil {
		return fmt.Errorf("reading what a process has left that died: %w", err)
	}
	for _, path := range j.Stays {
		m.stays[path] = true
	}
	for _, path := range j.Through {
		m.through[path] = true
	}
	for path, l := range j.Looks {
		m.looks[path] = l
	}
	for _, b := range j.Binds { // may be there, or not yet, or no longer
		_ = unix.Renameat2(unix.AT_FDCWD, filepath.Join(m.opt.Root, b.At), unix.AT_FDCWD, b.Source, unix.RENAME_NOREPLACE)
	}
	if j.Step {
		left, err := m.makeDir(m.dir, "left-"+rand.Text()[:10])
		if err == nil {
			err = m.stepOut(m.root, left.fd, ".", nil)
			unix.Close(left.fd)
		}
		if err == nil {
			err = m.write(journal{})
		}
		if err == nil {
			err = layer.RemoveAll(filepath.Join(m.opt.Dir, left.name))
		}
		if err != nil {
			return fmt.Errorf("putting away the files of a step whose process died: %w", err)
		}
	}
	return m.hostIn()
}
