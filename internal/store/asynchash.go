package store

import (
	"io"
	"sync"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
)

// asyncHash digests what is written to it on another core, and hands it on. Digest ends it and must be called, any
// number of times.
type asyncHash struct {
	alg  digest.Algorithm
	out  io.Writer // gets the same in blocks, the last one with Digest; may be nil
	err  error     // the first one of out, which gets nothing more
	buf  *block
	full chan *block
	sum  chan digest.Digest
	once sync.Once
	got  digest.Digest

	running bool
}

// block is some of what was written, which two may read.
type block struct {
	data  []byte
	users atomic.Int32
}

const (
	hashBlock = 256 << 10 // bytes handed over at once
	hashAhead = 4         // blocks in flight
)

var hashBlocks = sync.Pool{New: func() any { return &block{data: make([]byte, 0, hashBlock)} }}

// done ends the use of one of those who read it.
func (b *block) done() {
	if b.users.Add(-1) == 0 {
		b.data = b.data[:0]
		hashBlocks.Put(b)
	}
}

func newAsyncHash(alg digest.Algorithm, out io.Writer) *asyncHash {
	return &asyncHash{alg: alg, out: out, full: make(chan *block, hashAhead), sum: make(chan digest.Digest, 1)}
}

// Write fails only when out did.
func (a *asyncHash) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		room := a.room()
		k := copy(room, p)
		a.added(k)
		p = p[k:]
	}
	return n, a.err
}

// read is Write of what r gives at once, which is read to where it is digested from.
func (a *asyncHash) read(r io.Reader) (n int, err error) {
	if n, err = r.Read(a.room()); n > 0 {
		a.added(n)
	}
	if a.err != nil {
		err = a.err
	}
	return n, err
}

// room is what is free of the block in hand.
func (a *asyncHash) room() []byte {
	if a.buf == nil {
		a.buf = hashBlocks.Get().(*block)
		a.buf.users.Store(2)
	}
	return a.buf.data[len(a.buf.data):hashBlock]
}

// added says that so many bytes are in the room now.
func (a *asyncHash) added(n int) {
	if a.buf.data = a.buf.data[:len(a.buf.data)+n]; len(a.buf.data) == hashBlock {
		a.flush()
	}
}

// flush hands a block over; the first one starts the goroutine, so that small content never has one.
func (a *asyncHash) flush() {
	if !a.running {
		a.running = true
		go a.run()
	}
	b := a.buf
	a.buf = nil
	a.full <- b
	a.pass(b)
	b.done()
}

// pass gives a block to out.
func (a *asyncHash) pass(b *block) {
	if a.out != nil && a.err == nil {
		_, a.err = a.out.Write(b.data)
	}
}

func (a *asyncHash) run() {
	h := a.alg.Hash()
	for b := range a.full {
		h.Write(b.data)
		b.done()
	}
	a.sum <- digest.NewDigest(a.alg, h)
}

// Digest returns the digest of what was written. Nothing may be written afterwards.
func (a *asyncHash) Digest() digest.Digest {
	a.once.Do(func() {
		switch {
		case a.running:
			if a.buf != nil {
				a.flush()
			}
			close(a.full)
			a.got = <-a.sum
		case a.buf != nil:
			a.got = a.alg.FromBytes(a.buf.data)
			a.pass(a.buf)
			a.buf.users.Store(1)
			a.buf.done()
		default:
			a.got = a.alg.FromBytes(nil)
		}
	})
	return a.got
}
