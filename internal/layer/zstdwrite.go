package layer

import (
	"io"
	"runtime"

	"github.com/klauspost/compress/zstd"
)

// zstdBlock is how much of the input becomes one frame, in bytes. Frames are compressed each for
// itself, so that all cores have work and the bytes do not depend on how many there are; at this
// size what is lost by it is less than a hundredth.
const zstdBlock = 4 << 20

// zstdWriter writes a zstd stream of frames that are compressed at the same time.
type zstdWriter struct {
	enc   *zstd.Encoder
	buf   []byte
	queue chan chan []byte // frames in order, each sent when it is ready
	done  chan error       // the result of writing them
	spare chan []byte      // buffers that can be used again; bounds how many there are
}

func newZstdWriter(w io.Writer, level zstd.EncoderLevel) (*zstdWriter, error) {
	n := runtime.GOMAXPROCS(0)
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(level), zstd.WithEncoderConcurrency(n))
	if err != nil {
		return nil, err
	}
	z := &zstdWriter{enc: enc, queue: make(chan chan []byte, n), done: make(chan error, 1), spare: make(chan []byte, n+1)}
	for range n + 1 {
		z.spare <- nil
	}
	go z.write(w)
	return z, nil
}

// write writes the frames in their order. After an error it only drains.
func (z *zstdWriter) write(w io.Writer) {
	var err error
	for frame := range z.queue {
		data := <-frame
		if err == nil {
			_, err = w.Write(data)
		}
	}
	z.done <- err
}

func (z *zstdWriter) Write(p []byte) (int, error) {
	written := 0
	for len(p) > 0 {
		if z.buf == nil {
			if z.buf = <-z.spare; z.buf == nil {
				z.buf = make([]byte, 0, zstdBlock)
			}
			z.buf = z.buf[:0]
		}
		n := min(len(p), zstdBlock-len(z.buf))
		z.buf = append(z.buf, p[:n]...)
		p, written = p[n:], written+n
		if len(z.buf) == zstdBlock {
			z.flush()
		}
	}
	return written, nil
}

// flush compresses what is buffered as one frame.
func (z *zstdWriter) flush() {
	src, frame := z.buf, make(chan []byte, 1)
	z.buf = nil
	z.queue <- frame
	go func() {
		frame <- z.enc.EncodeAll(src, nil)
		z.spare <- src
	}()
}

// Close finishes the stream. Errors of writing come out here.
func (z *zstdWriter) Close() error {
	if len(z.buf) > 0 {
		z.flush()
	}
	close(z.queue)
	return <-z.done
}
