//go:build cgo

package layer

import "github.com/slipway-build/slipway/internal/libdeflate"

// gzipEfforts are libdeflate's levels for those of zlib and Go, the lowest ones that compress as well, to half a percent.
var gzipEfforts = [10]int{1: 1, 2: 1, 3: 2, 4: 4, 5: 5, 6: 6, 7: 6, 8: 7, 9: 7}

func newDeflater(level int) (deflater, error) {
	switch level {
	case Stored:
		return stored{}, nil
	case HuffmanOnly:
		level = 1 // it takes as long, and finds matches as well
	}
	return libdeflate.New(gzipEfforts[level])
}
