//go:build !cgo

package layer

import (
	"io"

	"github.com/klauspost/compress/zstd"
)

// newZstdWriter compresses without libzstd, for who builds slipway without a C compiler: it takes longer, has four
// levels, and its bytes are others.
func newZstdWriter(w io.Writer, level int) (io.WriteCloser, error) {
	return zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(level)), zstd.WithEncoderConcurrency(2))
}
