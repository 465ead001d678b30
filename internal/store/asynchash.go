package store

import (
	"sync"

	"github.com/opencontainers/go-digest"
)

// asyncHash digests what is written to it on another core. Digest ends it and must be called, any
// number of times.
type asyncHash struct {
	alg  digest.Algorithm
	buf  []byte
	full chan []byte
	sum  chan digest.Digest
	once sync.Once
	got  digest.Digest

	running bool
}

const (
	hashBlock = 256 << 10 // bytes handed over at once
	hashAhead = 4         // blocks in flight
)

var hashBlocks = sync.Pool{New: func() any { b := make([]byte, 0, hashBlock); return &b }}

func newAsyncHash(alg digest.Algorithm) *asyncHash {
	return &asyncHash{alg: alg, full: make(chan []byte, hashAhead), sum: make(chan digest.Digest, 1)}
}

// Write never fails.
func (a *asyncHash) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		if a.buf == nil {
			a.buf = (*hashBlocks.Get().(*[]byte))[:0]
		}
		k := min(len(p), hashBlock-len(a.buf))
		a.buf = append(a.buf, p[:k]...)
		p = p[k:]
		if len(a.buf) == hashBlock {
			a.flush()
		}
	}
	return n, nil
}

// block gives memory for what give takes.
func (a *asyncHash) block() []byte { return (*hashBlocks.Get().(*[]byte))[:hashBlock] }

// give is Write without copying: b, which block gave, is not the caller's any more.
func (a *asyncHash) give(b []byte) {
	if len(a.buf) > 0 {
		a.flush()
	}
	if a.buf = b; len(b) == hashBlock {
		a.flush()
	}
}

// flush hands a full block over; the first one starts the goroutine, so that small content never
// has one.
func (a *asyncHash) flush() {
	if !a.running {
		a.running = true
		go a.run()
	}
	a.full <- a.buf
	a.buf = nil
}

func (a *asyncHash) run() {
	h := a.alg.Hash()
	for b := range a.full {
		h.Write(b)
		hashBlocks.Put(&b)
	}
	a.sum <- digest.NewDigest(a.alg, h)
}

// Digest returns the digest of what was written. Nothing may be written afterwards.
func (a *asyncHash) Digest() digest.Digest {
	a.once.Do(func() {
		if !a.running {
			a.got = a.alg.FromBytes(a.buf)
			if b := a.buf; b != nil {
				hashBlocks.Put(&b)
			}
			return
		}
		if len(a.buf) > 0 {
			a.full <- a.buf
		}
		close(a.full)
		a.got = <-a.sum
	})
	return a.got
}
