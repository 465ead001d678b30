package layer

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/klauspost/compress/flate"
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

// gzipLevels are klauspost's levels for those of zlib and Go, which compress as well, to half a percent. klauspost's
// of the same number are quicker and compress less.
var gzipLevels = [10]int{0: 8, 1: 3, 2: 4, 3: 5, 4: 6, 5: 8, 6: 8, 7: 8, 8: 9, 9: 9}

// deflaters are encoders by klauspost's level, to be used again.
var deflaters [10]sync.Pool

// gzipWriter writes a gzip stream of blocks that are compressed at the same time.
type gzipWriter struct {
	w      io.Writer
	level  int             // klauspost's
	cur    *gzipPiece      // being filled
	queue  chan *gzipPiece // in order
	spare  chan *gzipPiece // to be used again; bounds how many there are
	done   chan struct{}   // closed when all is written
	err    atomic.Pointer[error]
	crc    uint32
	size   uint32
	closed bool
}

// gzipPiece is a block of the input and what becomes of it.
type gzipPiece struct {
	in    []byte // the window, as far as there is one, and the block
	from  int    // where the block begins
	last  bool
	out   bytes.Buffer
	err   error
	ready chan struct{} // gets a value when out is there
}

func newGzipWriter(w io.Writer, level int) *gzipWriter {
	n := 2 * min(runtime.GOMAXPROCS(0), gzipMaxCores)
	z := &gzipWriter{w: w, level: gzipLevels[level], queue: make(chan *gzipPiece, n), spare: make(chan *gzipPiece, n), done: make(chan struct{})}
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

// flush has the block in hand compressed, and returns what is the window of the next one.
func (z *gzipWriter) flush(last bool) (window []byte) {
	p := z.cur
	p.last = last
	z.queue <- p
	go func() {
		p.deflate(z.level)
		p.ready <- struct{}{}
	}()
	return p.in
}

// deflate compresses the block to whole bytes, so that the next one can follow.
func (p *gzipPiece) deflate(level int) {
	p.out.Reset()
	enc, _ := deflaters[level].Get().(*flate.Writer)
	if enc == nil {
		if enc, p.err = flate.NewWriter(nil, level); p.err != nil {
			return
		}
	}
	defer deflaters[level].Put(enc)
	enc.ResetDict(&p.out, p.in[:p.from])
	_, p.err = enc.Write(p.in[p.from:])
	if p.err != nil {
		return
	}
	if p.last {
		p.err = enc.Close()
	} else {
		p.err = enc.Flush()
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
			_, err = z.w.Write(p.out.Bytes())
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
	<-z.done
	if err := z.err.Load(); err != nil {
		return *err
	}
	trailer := binary.LittleEndian.AppendUint32(nil, z.crc)
	_, err := z.w.Write(binary.LittleEndian.AppendUint32(trailer, z.size))
	return err
}
