package host

import (
	"io"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// maxInput is how much of what a client types waits for a process that does not read, in bytes, before the client waits.
const maxInput = 1 << 20

// pieceSize is what a piece of input takes beside its bytes: there are empty ones.
const pieceSize = 64

// gonePoll is how often it is looked whether a client that waits is there still.
const gonePoll = 100 * time.Millisecond

// inbox is what a client types and a process has not read: the end of the client's connection is seen also while nobody reads, as before a
// container's start.
type inbox struct {
	to io.Writer

	mu    sync.Mutex
	moved sync.Cond // something was put, or that was all
	space chan struct{}
	queue [][]byte
	bytes int // in the queue, and what its pieces take
	all   bool
	dead  bool // nobody reads any more
}

// newInbox begins to give what is put to a writer. then is called when that was all.
func newInbox(to io.Writer, then func()) *inbox {
	b := &inbox{to: to, space: make(chan struct{}, 1)}
	b.moved.L = &b.mu
	go func() {
		b.run()
		then()
	}()
	return b
}

func (b *inbox) run() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for {
		for len(b.queue) == 0 && !b.all {
			b.moved.Wait()
		}
		if len(b.queue) == 0 {
			return
		}
		next := b.queue[0]
		b.mu.Unlock()
		_, err := b.to.Write(next)
		b.mu.Lock()
		b.queue, b.bytes = b.queue[1:], b.bytes-len(next)-pieceSize
		if b.dead = b.dead || err != nil; b.dead {
			b.queue, b.bytes = nil, 0
		}
		select {
		case b.space <- struct{}{}:
		default:
		}
	}
}

// put gives input to the process, and waits while that is too far behind. It is false when the client is gone meanwhile.
func (b *inbox) put(data []byte, gone func() bool) bool {
	for {
		b.mu.Lock()
		if b.dead {
			b.mu.Unlock()
			return true
		}
		if b.bytes < maxInput {
			b.queue, b.bytes = append(b.queue, data), b.bytes+len(data)+pieceSize
			b.moved.Signal()
			b.mu.Unlock()
			return true
		}
		b.mu.Unlock()
		look := time.NewTimer(gonePoll)
		select {
		case <-b.space:
		case <-look.C:
			if gone() {
				return false
			}
		}
		look.Stop()
	}
}

// end says that this was all.
func (b *inbox) end() {
	b.mu.Lock()
	b.all = true
	b.moved.Signal()
	b.mu.Unlock()
}

// gone reports whether the other end of a connection is closed, whatever there is to be read.
func (c *conn) gone() bool {
	raw, err := c.SyscallConn()
	if err != nil {
		return true
	}
	hup := false
	err = raw.Control(func(fd uintptr) {
		fds := []unix.PollFd{{Fd: int32(fd)}} // POLLHUP and POLLERR are always told
		n, err := unix.Poll(fds, 0)
		hup = err == nil && n > 0
	})
	return err != nil || hup
}
