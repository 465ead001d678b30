package layer

import (
	"io"
	"runtime"
)

// zstdBlock is how much of the input becomes one frame, in bytes. Frames are compressed each for
// itself, so that all cores have work and the bytes do not depend on how many there are; at this
// size what is lost by it is less than a hundredth.
const zstdBlock = 2 << 20

// Beyond this level a frame that is being compressed takes up to 50 MB besides, so there are no more than so many
// at the same time.
const (
	zstdThrifty     = 12
	zstdThriftyJobs = 4
)

// zstdWriter writes a zstd stream of frames that are compressed at the same time.
type zstdWriter struct {
	enc   zstdEncoder
	cur   *zstdFrame      // being filled; nil: none
	queue chan *zstdFrame // in order
	spare chan *zstdFrame // to be used again; bounds how many there are
	done  chan error      // the result of writing them
}

// zstdFrame is a piece of the input and what becomes of it.
type zstdFrame struct {
	src, dst []byte
	err      error
	ready    chan struct{} // gets a value when dst is there
}

// newZstdWriter returns a writer for one of zstd's levels.
func newZstdWriter(w io.Writer, level int) (*zstdWriter, error) {
	n := runtime.GOMAXPROCS(0)
	if level > zstdThrifty {
		n = min(n, zstdThriftyJobs)
	}
	enc, err := newZstdEncoder(level, n)
	if err != nil {
		return nil, err
	}
	z := &zstdWriter{enc: enc, queue: make(chan *zstdFrame, n+1), spare: make(chan *zstdFrame, n+1), done: make(chan error, 1)}
	for range n + 1 {
		z.spare <- &zstdFrame{ready: make(chan struct{}, 1)}
	}
	go z.write(w)
	return z, nil
}

// write writes the frames in their order. After an error it only drains.
func (z *zstdWriter) write(w io.Writer) {
	var err error
	for f := range z.queue {
		<-f.ready
		if err == nil {
			err = f.err
		}
		if err == nil {
			_, err = w.Write(f.dst)
		}
		z.spare <- f
	}
	z.done <- err
}

func (z *zstdWriter) Write(p []byte) (int, error) {
	written := 0
	for len(p) > 0 {
		if z.cur == nil {
			z.cur = <-z.spare
			if z.cur.src == nil {
				z.cur.src = make([]byte, 0, zstdBlock)
			}
			z.cur.src = z.cur.src[:0]
		}
		n := min(len(p), zstdBlock-len(z.cur.src))
		z.cur.src = append(z.cur.src, p[:n]...)
		p, written = p[n:], written+n
		if len(z.cur.src) == zstdBlock {
			z.flush()
		}
	}
	return written, nil
}

// flush compresses what is buffered as one frame.
func (z *zstdWriter) flush() {
	f := z.cur
	z.cur = nil
	z.queue <- f
	go func() {
		f.dst, f.err = z.enc.frame(f.dst, f.src)
		f.ready <- struct{}{}
	}()
}

// Close finishes the stream. Errors of writing come out here.
func (z *zstdWriter) Close() error {
	if z.cur != nil {
		z.flush()
	}
	close(z.queue)
	return <-z.done
}
