//go:build cgo

package layer

import (
	"fmt"
	"sync"

	"github.com/DataDog/zstd"
)

// zstdEncoder compresses with libzstd, whose sources are part of the module, so that the bytes depend on
// slipway's version and not on what is installed where it is built. Only compressing is left to it: what
// came from others is read in Go.
type zstdEncoder struct{ level int }

// zstdContexts are libzstd's working memories, which are used again.
var zstdContexts = sync.Pool{New: func() any { return zstd.NewCtx() }}

func newZstdEncoder(level, _ int) (zstdEncoder, error) { return zstdEncoder{level}, nil }

// frame makes a frame of src, in the memory of dst if it has enough.
func (z zstdEncoder) frame(dst, src []byte) ([]byte, error) {
	c := zstdContexts.Get().(zstd.Ctx)
	defer zstdContexts.Put(c)
	dst, err := c.CompressLevel(dst[:0], src, z.level)
	if err != nil {
		return nil, fmt.Errorf("compressing with zstd: %w", err)
	}
	return dst, nil
}
