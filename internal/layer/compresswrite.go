package layer

import (
	"fmt"
	"io"
)

// zstdLevel is zstd's usual level.
const zstdLevel = 3

// Encoding is how a blob is to be compressed. The zero value is not at all.
type Encoding struct {
	Compression Compression
	// Level is that of the format: 1 to 9 for Gzip, 1 to 22 for Zstd. 0 is the usual one.
	Level int
	// Force asks for it even where a layer came in another encoding; without it such a layer stays
	// as it is.
	Force bool
}

// Check returns what is wrong with an encoding that cannot be written, or nil.
func (e Encoding) Check() error {
	top := map[Compression]int{Uncompressed: 0, Gzip: 9, Zstd: 22}
	limit, ok := top[e.Compression]
	switch {
	case !ok:
		return fmt.Errorf("%w: %s cannot be written", ErrCompression, e.Compression)
	case e.Level < 0 || e.Level > limit && limit > 0:
		return fmt.Errorf("%s has levels 1 to %d, not %d", e.Compression, limit, e.Level)
	case e.Level > limit:
		return fmt.Errorf("what is not compressed has no level, not %d", e.Level)
	}
	return nil
}

// encoders is the number of what makes the bytes: it grows when the same content and level give others than before.
const encoders = 1

// Made tells by which encoder and level something was compressed here, where that is recorded: what an older version
// compressed is as good, but one version gives the same bytes whatever the store has seen.
func (e Encoding) Made() int {
	if e.Compression == Uncompressed {
		return 0
	}
	return 100*encoders + e.Level
}

// Compress returns a writer that compresses to w. Closing it finishes the stream and leaves w
// open. The bytes depend on the input and the encoding only, not on the number of cores.
func Compress(w io.Writer, e Encoding) (io.WriteCloser, error) {
	if err := e.Check(); err != nil {
		return nil, err
	}
	switch e.Compression {
	case Gzip:
		return newGzipWriter(w, e.Level), nil
	case Zstd:
		level := e.Level
		if level == 0 {
			level = zstdLevel
		}
		return newZstdWriter(w, level)
	}
	return nopWriteCloser{w}, nil
}

type nopWriteCloser struct{ io.Writer }

func (nopWriteCloser) Close() error { return nil }
