package host

import (
	"sync"
)

// attachment is a client that gets output.
type attachment struct {
	c    *conn
	want Streams
	done chan struct{} // closed when nothing is sent any more

	mu    sync.Mutex
	moved sync.Cond // something was sent or put, or all is over
	queue []piece
	bytes int // in the queue
	gone  bool
	late  bool // the process has ended, and others of the container may print still: each piece has its time
	last  bool // nothing more is printed than the kernel had: nobody waits for the client, and all has its time together
	exit  *Exit
}

// piece is output that waits.
type piece struct {
	kind byte
	data []byte
}

func newAttachment(c *conn, want Streams) *attachment {
	a := &attachment{c: c, want: want, done: make(chan struct{})}
	a.moved.L = &a.mu
	return a
}

// put gives output to the client, and waits while it is too far behind, but not for the last of it.
func (a *attachment) put(kind byte, data []byte) {
	if kind == frameStdout && !a.want.Stdout || kind == frameStderr && !a.want.Stderr {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for a.bytes > maxBehind && !a.gone && !a.last {
		a.moved.Wait()
	}
	if a.gone {
		return
	}
	a.queue = append(a.queue, piece{kind, append([]byte(nil), data...)})
	a.bytes += len(data)
	a.moved.Broadcast()
}

// run sends what was put until the end.
func (a *attachment) run() {
	defer close(a.done)
	for {
		a.mu.Lock()
		for len(a.queue) == 0 && !a.gone && a.exit == nil {
			a.moved.Wait()
		}
		if a.gone {
			a.mu.Unlock()
			return
		}
		if len(a.queue) == 0 {
			exit := *a.exit
			a.mu.Unlock()
			_ = a.c.tell(frameExit, exit) // who is gone knows already
			return
		}
		next := a.queue[0]
		a.queue = a.queue[1:]
		a.bytes -= len(next.data)
		a.moved.Broadcast()
		if a.late && !a.last {
			deadline(a.c)
		}
		a.mu.Unlock()
		if a.c.send(next.kind, next.data) != nil {
			a.drop()
		}
	}
}

// hurry has the client lose what it does not begin to read: the process has ended. With last all of the rest has to be read in that time.
func (a *attachment) hurry(last bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.last || a.late && !last {
		return
	}
	a.late, a.last = true, last
	deadline(a.c) // of the piece that is being sent
	a.moved.Broadcast()
}

// drop ends it at once.
func (a *attachment) drop() {
	a.mu.Lock()
	a.gone = true
	a.moved.Broadcast()
	a.mu.Unlock()
	_ = a.c.Close()
}

// end sends the rest, and how the process has ended.
func (a *attachment) end(e Exit) {
	a.mu.Lock()
	a.exit = &e
	a.moved.Broadcast()
	a.mu.Unlock()
	a.hurry(true)
	<-a.done
}
