package layer

import (
	"encoding/binary"
	"hash/crc32"
	"io"
	"math"
	"runtime"
	"sync"
	"sync/atomic"
)

const (
	// gzipBlock is how much of the input is compressed at a time, in bytes. Blocks are compressed at the same time, so all
	// cores have work; their size decides the bytes, and the number of blocks in flight does not.
	gzipBlock = 1 << 20
	// gzipWindow is how far back deflate refers. Each block is told what came before it, so nothing is lost by its being
	// compressed for itself.
	gzipWindow = 32 << 10
	// gzipMaxCores bounds memory: each takes some 5 MB.
	gzipMaxCores = 16
)

// A deflater compresses blocks of a deflate stream, one at a time.
type deflater interface {
	// Block compresses the bytes of in that are there from a place on, and may refer to those before it. The block ends at a
	// byte, so that the next one can follow. What it returns may be in the memory of out.
	Block(out, in []byte, from int, last bool) ([]byte, error)
	// Free ends the use of it.
	Free()
}

// gzipWriter writes a gzip stream, of one member, of blocks that are compressed at the same time.
type gzipWriter struct {
	w       io.Writer
	level   int
	cur     *gzipPiece      // being filled
	queue   chan *gzipPiece // in order
	todo    chan *gzipPiece // the same, for who compresses them
	spare   chan *gzipPiece // to be used again; bounds how many there are
	workers int             // that were started
	working sync.WaitGroup  // the same
	done    chan struct{}   // closed when all is written
	err     atomic.Pointer[error]
	crc     uint32
	size    uint32
	closed  bool
}

// gzipPiece is a block of the input and what becomes of it.
type gzipPiece struct {
	in    []byte // the window, as far as there is one, and the block
	from  int    // where the block begins
	last  bool
	out   []byte
	err   error
	ready chan struct{} // gets a value when out is there
}

func newGzipWriter(w io.Writer, level int) *gzipWriter {
	n := 2 * min(runtime.GOMAXPROCS(0), gzipMaxCores)
	z := &gzipWriter{w: w, level: level, done: make(chan struct{})}
	z.queue, z.todo, z.spare = make(chan *gzipPiece, n), make(chan *gzipPiece, n), make(chan *gzipPiece, n)
	for range n {
		z.spare <- &gzipPiece{ready: make(chan struct{}, 1)}
	}
	z.next(nil)
	go z.write(gzipHeader(level))
	return z
}

// gzipHeader has no name and no time, says how hard it was tried, and nothing about the system.
func gzipHeader(level int) []byte {
	h := []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255}
	switch level {
	case 1:
		h[8] = 4
	case 9:
		h[8] = 2
	}
	return h
}

// next begins a block, before which comes the end of what window has.
func (z *gzipWriter) next(window []byte) {
	z.cur = <-z.spare
	if z.cur.in == nil {
		z.cur.in = make([]byte, 0, gzipWindow+gzipBlock)
	}
	z.cur.in = append(z.cur.in[:0], window[max(0, len(window)-gzipWindow):]...)
	z.cur.from = len(z.cur.in)
}

func (z *gzipWriter) Write(p []byte) (n int, err error) {
	for n < len(p) {
		if err := z.err.Load(); err != nil {
			return n, *err
		}
		k := min(len(p)-n, z.cur.from+gzipBlock-len(z.cur.in))
		z.cur.in = append(z.cur.in, p[n:n+k]...)
		n += k
		if len(z.cur.in) == z.cur.from+gzipBlock {
			z.next(z.flush(false))
		}
	}
	z.crc = crc32.Update(z.crc, crc32.IEEETable, p)
	z.size += uint32(len(p))
	return n, nil
}

// flush has the block in hand compressed, and returns what is the window of the next one. Compressors are C's threads, so
// there are no more than cores; a small layer has one.
func (z *gzipWriter) flush(last bool) (window []byte) {
	p := z.cur
	p.last = last
	if z.workers < cap(z.todo)/2 {
		z.workers++
		z.working.Add(1)
		go z.deflate()
	}
	z.queue <- p
	z.todo <- p
	return p.in
}

// deflate compresses blocks until there are no more.
func (z *gzipWriter) deflate() {
	defer z.working.Done()
	d, err := newDeflater(z.level)
	if err == nil {
		defer d.Free()
	}
	for p := range z.todo {
		if p.err = err; err == nil {
			p.out, p.err = d.Block(p.out, p.in, p.from, p.last)
		}
		p.ready <- struct{}{}
	}
}

// write writes the blocks in their order. After an error it only drains.
func (z *gzipWriter) write(header []byte) {
	defer close(z.done)
	_, err := z.w.Write(header)
	for p := range z.queue {
		<-p.ready
		if err == nil {
			err = p.err
		}
		if err == nil {
			_, err = z.w.Write(p.out)
		}
		if err != nil {
			z.err.CompareAndSwap(nil, &err)
		}
		z.spare <- p
	}
}

// Close finishes the stream. Errors of writing come out here at the latest.
func (z *gzipWriter) Close() error {
	if z.closed {
		return nil
	}
	z.closed = true
	z.flush(true)
	close(z.queue)
	close(z.todo)
	<-z.done
	z.working.Wait() // its memory is free then
	if err := z.err.Load(); err != nil {
		return *err
	}
	trailer := binary.LittleEndian.AppendUint32(nil, z.crc)
	_, err := z.w.Write(binary.LittleEndian.AppendUint32(trailer, z.size))
	return err
}

// stored is the deflater of level 0, which compresses nothing.
type stored struct{}

// Block implements [deflater].
func (stored) Block(out, in []byte, from int, last bool) ([]byte, error) {
	out, in = out[:0], in[from:]
	for more := true; more; more = len(in) > 0 {
		n := min(len(in), math.MaxUint16)
		head := [5]byte{}
		if last && n == len(in) {
			head[0] = 1
		}
		binary.LittleEndian.PutUint16(head[1:], uint16(n))
		binary.LittleEndian.PutUint16(head[3:], ^uint16(n))
		out = append(append(out, head[:]...), in[:n]...)
		in = in[n:]
	}
	return out, nil
}

// Free implements [deflater].
func (stored) Free() {}
