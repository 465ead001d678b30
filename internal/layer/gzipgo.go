//go:build !cgo

package layer

import (
	"bytes"

	"github.com/klauspost/compress/flate"
)

// gzipEfforts are klauspost's levels for those of zlib and Go, which compress as well, to half a percent. klauspost's
// of the same number are quicker and compress less.
var gzipEfforts = [10]int{1: 3, 2: 4, 3: 5, 4: 6, 5: 8, 6: 8, 7: 8, 8: 9, 9: 9}

// goDeflater compresses without libdeflate, for who builds slipway without a C compiler: it takes three times as long, and
// its bytes are others.
type goDeflater struct{ w *flate.Writer }

func newDeflater(level int) (deflater, error) {
	effort := flate.HuffmanOnly
	switch {
	case level == Stored:
		return stored{}, nil
	case level > 0:
		effort = gzipEfforts[level]
	}
	w, err := flate.NewWriter(nil, effort)
	return goDeflater{w}, err
}

// Block implements [deflater].
func (d goDeflater) Block(out, in []byte, from int, last bool) ([]byte, error) {
	b := bytes.NewBuffer(out[:0])
	d.w.ResetDict(b, in[:from])
	if _, err := d.w.Write(in[from:]); err != nil {
		return nil, err
	}
	end := d.w.Flush
	if last {
		end = d.w.Close
	}
	err := end()
	return b.Bytes(), err
}

// Free implements [deflater].
func (goDeflater) Free() {}
