package layer

import (
	"cmp"
	"fmt"
	"io"
)

const (
	gzipLevel  = 6 // the usual one of zlib and Go
	zstdLevel  = 3 // the usual one of zstd
	zstdLevels = 22
)

// Levels of Gzip beside 1 to 9, which is how hard to look for what comes again.
const (
	Stored      = -1 // nothing is compressed
	HuffmanOnly = -2 // nothing is looked for
)

// Encoding is how a blob is to be compressed. The zero value is not at all.
type Encoding struct {
	Compression Compression
	// Level is that of the format: 1 to 9, Stored or HuffmanOnly for Gzip, 1 to 22 for Zstd. 0 is the usual one.
	Level int
	// Force asks for it even where a layer came in another encoding; without it such a layer stays
	// as it is.
	Force bool
}

// WithLevel is the encoding with the level that a user asks for, whose numbers are BuildKit's: those of Go for Gzip, where 0
// compresses nothing, -1 is the usual level and -2 looks for nothing; any number for Zstd, the nearest level of which is
// taken. What is not compressed has no level, whatever is asked for.
func (e Encoding) WithLevel(n int) (Encoding, error) {
	switch e.Level = n; {
	case e.Compression == Zstd:
		e.Level = min(max(n, 1), zstdLevels)
	case e.Compression == Uncompressed, n == -1:
		e.Level = 0
	case n == 0:
		e.Level = Stored
	}
	return e, e.Check()
}

// Check returns what is wrong with an encoding that cannot be written, or nil.
func (e Encoding) Check() error {
	limits, ok := map[Compression][2]int{Uncompressed: {}, Gzip: {HuffmanOnly, 9}, Zstd: {0, zstdLevels}}[e.Compression]
	switch {
	case !ok:
		return fmt.Errorf("%w: %s cannot be written", ErrCompression, e.Compression)
	case e.Level < limits[0] || e.Level > limits[1]:
		return fmt.Errorf("%s has levels %d to %d, not %d", cmp.Or(e.Compression, "what is not compressed"), limits[0], limits[1], e.Level)
	}
	return nil
}

// encoders are the numbers of what makes the bytes: one grows when the same content and level give others than before.
var encoders = map[Compression]int{Gzip: 2, Zstd: 2}

// Made tells by which encoder and level something was compressed here, where that is recorded: what an older version
// compressed is as good, but one version gives the same bytes whatever the store has seen.
func (e Encoding) Made() int {
	if e.Compression == Uncompressed {
		return 0
	}
	return 100*encoders[e.Compression] + e.Level
}

// Compress returns a writer that compresses to w. Closing it finishes the stream and leaves w
// open. The bytes depend on the input and the encoding only, not on the number of cores.
func Compress(w io.Writer, e Encoding) (io.WriteCloser, error) {
	if err := e.Check(); err != nil {
		return nil, err
	}
	switch e.Compression {
	case Gzip:
		return newGzipWriter(w, cmp.Or(e.Level, gzipLevel)), nil
	case Zstd:
		return newZstdWriter(w, cmp.Or(e.Level, zstdLevel))
	}
	return nopWriteCloser{w}, nil
}

type nopWriteCloser struct{ io.Writer }

func (nopWriteCloser) Close() error { return nil }
