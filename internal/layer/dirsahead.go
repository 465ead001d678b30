package layer

import (
	"runtime"
	"sync"
)

// maxDirsAhead is how many directories are read before they are asked for, at most.
const maxDirsAhead = 64

// DirsAhead reads the directories of a tree before they are asked for, on all cores. It is for one
// walk by one goroutine, which announces with [DirsAhead.Expect] what it is going to read and ends
// with [DirsAhead.Close].
type DirsAhead struct {
	tree Tree

	mu      sync.Mutex
	known   map[string]*reading // announced, not asked for
	next    []*reading          // not begun, or taken out of turn; the last comes first
	unread  int                 // begun, not asked for
	workers int
	closed  bool
	wg      sync.WaitGroup
}

// reading is one directory.
type reading struct {
	path  string
	begun bool
	done  chan struct{} // closed when list and err are there
	list  []*Entry
	err   error
}

// ReadDirsAhead returns a reader of a tree's directories.
func ReadDirsAhead(t Tree) *DirsAhead { return &DirsAhead{tree: t, known: map[string]*reading{}} }

// Expect announces directories that will be read in this order, before all that were announced
// so far.
func (a *DirsAhead) Expect(dirs []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i := len(dirs) - 1; i >= 0; i-- {
		r := &reading{path: dirs[i], done: make(chan struct{})}
		a.known[r.path] = r
		a.next = append(a.next, r)
	}
	a.help()
}

// ReadDir is the tree's.
func (a *DirsAhead) ReadDir(path string) ([]*Entry, error) {
	a.mu.Lock()
	r := a.known[path]
	if r == nil {
		a.mu.Unlock()
		return a.tree.ReadDir(path)
	}
	delete(a.known, path)
	if !r.begun {
		r.begun = true
		a.mu.Unlock()
		return a.tree.ReadDir(path)
	}
	// While somebody else reads this one, there are others to be read.
	for !r.isDone() {
		o := a.take()
		if o == nil {
			break
		}
		a.mu.Unlock()
		a.read(o)
		a.mu.Lock()
	}
	a.unread--
	a.help()
	a.mu.Unlock()
	<-r.done
	return r.list, r.err
}

// Close waits until nothing is read any more.
func (a *DirsAhead) Close() {
	a.mu.Lock()
	a.closed = true
	a.mu.Unlock()
	a.wg.Wait()
}

// help starts another worker when there is work for it. The walk itself is one more.
func (a *DirsAhead) help() {
	if len(a.next) == 0 || a.unread >= maxDirsAhead || a.closed || a.workers >= max(1, runtime.GOMAXPROCS(0)-1) {
		return
	}
	a.workers++
	a.wg.Go(func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		for r := a.take(); r != nil; r = a.take() {
			a.mu.Unlock()
			a.read(r)
			a.mu.Lock()
		}
		a.workers--
	})
}

// take gives the directory that is to be read next, nil when there is none or enough was read.
func (a *DirsAhead) take() *reading {
	for len(a.next) > 0 && a.unread < maxDirsAhead && !a.closed {
		r := a.next[len(a.next)-1]
		a.next = a.next[:len(a.next)-1]
		if !r.begun {
			r.begun = true
			a.unread++
			return r
		}
	}
	return nil
}

func (a *DirsAhead) read(r *reading) {
	r.list, r.err = a.tree.ReadDir(r.path)
	close(r.done)
}

func (r *reading) isDone() bool {
	select {
	case <-r.done:
		return true
	default:
		return false
	}
}
