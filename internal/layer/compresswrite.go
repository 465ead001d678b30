package layer

import (
	"fmt"
	"io"
	"runtime"

	"github.com/klauspost/pgzip"
)

// gzipBlock is how much of the input pgzip compresses at a time, in bytes. It decides the output,
// the number of blocks in flight does not.
const gzipBlock = 1 << 20

// Compress returns a writer that compresses to w. Closing it finishes the stream and leaves w
// open. The bytes depend on the input only, not on the number of cores. Gzip and Zstd can be
// written; Uncompressed copies.
func Compress(w io.Writer, c Compression) (io.WriteCloser, error) {
	switch c {
	case Uncompressed:
		return nopWriteCloser{w}, nil
	case Gzip:
		zw, err := pgzip.NewWriterLevel(w, pgzip.DefaultCompression)
		if err != nil {
			return nil, err
		}
		if err := zw.SetConcurrency(gzipBlock, 2*runtime.GOMAXPROCS(0)); err != nil {
			return nil, err
		}
		return zw, nil
	case Zstd:
		return newZstdWriter(w)
	}
	return nil, fmt.Errorf("%w: %s cannot be written", ErrCompression, c)
}

type nopWriteCloser struct{ io.Writer }

func (nopWriteCloser) Close() error { return nil }
