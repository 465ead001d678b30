package bridge

import (
	"io"
	"sync"
)

// maxInput is how much a client may send to a process that does not read, before nothing else of it is read either.
const maxInput = 4 << 20

// input is what a client sends to a process' standard input.
type input struct {
	mu     sync.Mutex
	change sync.Cond
	data   [][]byte
	size   int
	eof    bool // there will be no more
	closed bool // nobody reads
}

func newInput() *input {
	in := &input{}
	in.change.L = &in.mu
	return in
}

// add appends data. It waits as long as too much is there that nobody has read.
func (in *input) add(data []byte, eof bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for in.size >= maxInput && !in.closed {
		in.change.Wait()
	}
	if in.closed || in.eof { // the process has ended, or the client takes back that it has said all
		return
	}
	if len(data) > 0 {
		in.data = append(in.data, data)
		in.size += len(data)
	}
	in.eof = eof
	in.change.Broadcast()
}

// Read implements io.Reader.
func (in *input) Read(p []byte) (int, error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for len(in.data) == 0 && !in.eof && !in.closed {
		in.change.Wait()
	}
	if in.closed || len(in.data) == 0 {
		return 0, io.EOF
	}
	n := copy(p, in.data[0])
	if in.data[0] = in.data[0][n:]; len(in.data[0]) == 0 {
		in.data = in.data[1:]
	}
	in.size -= n
	in.change.Broadcast()
	return n, nil
}

// Close implements io.Closer: what is left is dropped.
func (in *input) Close() error {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.closed, in.data, in.size = true, nil, 0
	in.change.Broadcast()
	return nil
}
