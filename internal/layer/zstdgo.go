//go:build !cgo

package layer

import "github.com/klauspost/compress/zstd"

// zstdEncoder compresses without libzstd, for who builds slipway without a C compiler: it takes longer, has four
// levels, and its bytes are others.
type zstdEncoder struct{ enc *zstd.Encoder }

func newZstdEncoder(level, jobs int) (zstdEncoder, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(level)), zstd.WithEncoderConcurrency(jobs), zstd.WithWindowSize(zstdBlock))
	return zstdEncoder{enc}, err
}

// frame makes a frame of src, in the memory of dst if it has enough.
func (z zstdEncoder) frame(dst, src []byte) ([]byte, error) {
	return z.enc.EncodeAll(src, dst[:0]), nil
}
