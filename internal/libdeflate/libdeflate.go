//go:build cgo

// Package libdeflate compresses blocks of a deflate stream with libdeflate, whose sources are in this directory: README.md
// tells which, and what was changed. There is no decompressor in it: what came from others is read in Go.
//
// The bytes depend on the input and the level, and not on the processor.
package libdeflate

/*
#include <stddef.h>
#include "libdeflate.h"

size_t libdeflate_deflate_compress_block(struct libdeflate_compressor *, const void *, size_t, size_t, int, void *, size_t);
*/
import "C"

import (
	"errors"
	"fmt"
	"unsafe"
)

const (
	// Window is how far back deflate refers.
	Window = 32 << 10
	// flushed is how many bytes there are after a block that is not the last, at most: an empty stored block, which
	// ends at a byte.
	flushed = 6
)

// Compressor compresses blocks, one at a time. Its memory is C's, some 0.7 MB, until Free.
type Compressor struct {
	c *C.struct_libdeflate_compressor
}

// New returns a compressor with a level of libdeflate's, 1 to 9.
func New(level int) (*Compressor, error) {
	if level < 1 || level > 9 {
		return nil, fmt.Errorf("libdeflate has levels 1 to 9 here, not %d", level)
	}
	c := C.libdeflate_alloc_compressor(C.int(level))
	if c == nil {
		return nil, errors.New("compressing with libdeflate: there is no memory for it")
	}
	return &Compressor{c}, nil
}

// Free gives the memory back. The compressor cannot be used any more.
func (c *Compressor) Free() {
	C.libdeflate_free_compressor(c.c) // of NULL too
	c.c = nil
}

// Bound is how many bytes a block of n bytes takes at most.
func Bound(n int) int {
	return int(C.libdeflate_deflate_compress_bound(nil, C.size_t(n))) + flushed
}

// Block compresses the bytes of in that are there from a place on; of those before it the last 32 KiB may be referred
// to, and must be what the stream has there. The block ends at a byte, so that another one can follow, unless it is the last.
// Its bytes are returned, in the memory of out if that has room for [Bound] of them.
func (c *Compressor) Block(out, in []byte, from int, last bool) ([]byte, error) {
	in, from = in[max(0, from-Window):], min(from, Window)
	size := len(in) - from
	if room := Bound(size); cap(out) < room {
		out = make([]byte, room)
	}
	n := c.block(out[:cap(out)], in, from, last)
	if n == 0 {
		return nil, fmt.Errorf("compressing with libdeflate: %d bytes do not fit into %d", size, cap(out))
	}
	return out[:n], nil
}

// block returns how many bytes it has written, or 0 if there is no room for them.
func (c *Compressor) block(out, in []byte, from int, last bool) int {
	end := C.int(0)
	if last {
		end = 1
	}
	return int(C.libdeflate_deflate_compress_block(c.c, unsafe.Pointer(unsafe.SliceData(in)), C.size_t(from), C.size_t(len(in)-from), end,
		unsafe.Pointer(unsafe.SliceData(out)), C.size_t(len(out))))
}
