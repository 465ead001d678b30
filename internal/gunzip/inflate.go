package gunzip

import (
	"compress/flate"
	"io"
)

const (
	window = 32 << 10     // what a match may reach back, in bytes
	block  = 256 << 10    // what is handed on at once
	margin = 3 + 258 + 16 // what may be written behind the end of a block: see fast
	atOnce = 128 << 10    // what is read at once
)

// buffer has the output: the window, then a block.
type buffer [window + block + margin]byte

// inflater decompresses a stream. Where it stands in the input is known to the bit: it reads no byte more than
// what it decompresses needs.
type inflater struct {
	r     io.Reader
	rerr  error        // of r
	in    [atOnce]byte // in[pos:end] was not used
	pos   int          //
	end   int          //
	read  int64        // all that came of r
	bits  uint64       // the nbits bits before in[pos]; the others are zero. Between two symbols they are fewer than 8
	nbits uint         //

	out     *buffer
	n       int                                            // where the next byte goes
	from    int                                            // out[from:n] was not handed on
	history int                                            // out[history:n] is what a match may reach
	handOn  func(b *buffer, from, to int) (*buffer, error) // takes a part of a buffer, and gives the next buffer

	own tables
}

func newInflater(r io.Reader, out *buffer, handOn func(b *buffer, from, to int) (*buffer, error)) *inflater {
	fixed() // makes what build needs
	return &inflater{r: r, out: out, n: window, from: window, history: window, handOn: handOn}
}

func (d *inflater) corrupt() error { return flate.CorruptInputError(d.read - int64(d.end-d.pos)) }

// fill reads some more of the input. Its error is the reader's.
func (d *inflater) fill() error {
	if d.rerr != nil {
		return d.rerr
	}
	d.end = copy(d.in[:], d.in[d.pos:d.end])
	d.pos = 0
	for range 100 {
		n, err := d.r.Read(d.in[d.end:])
		d.end += n
		d.read += int64(n)
		d.rerr = err
		if n > 0 {
			return nil
		}
		if err != nil {
			return err
		}
	}
	d.rerr = io.ErrNoProgress
	return d.rerr
}

// readByte reads a byte of the input, which stands at the beginning of one. The end is io.EOF.
func (d *inflater) readByte() (byte, error) {
	if d.pos == d.end {
		if err := d.fill(); err != nil {
			return 0, err
		}
	}
	d.pos++
	return d.in[d.pos-1], nil
}

// need sees to it that there are n bits.
func (d *inflater) need(n uint) error {
	for d.nbits < n {
		b, err := d.readByte()
		if err != nil {
			return noEOF(err)
		}
		d.bits |= uint64(b) << d.nbits
		d.nbits += 8
	}
	return nil
}

// take takes n bits as a number.
func (d *inflater) take(n uint) (uint, error) {
	if err := d.need(n); err != nil {
		return 0, err
	}
	v := uint(d.bits & low[n])
	d.bits >>= n
	d.nbits -= n
	return v, nil
}

// symbol takes a codeword, and the number after it, with as few bytes as it takes. It returns the codeword's
// entry, and what the entry and the number are together.
func (d *inflater) symbol(table []entry, indexBits uint) (entry, int, error) {
	for {
		e := table[d.bits&low[indexBits]]
		skip := uint(0)
		if e&isTable != 0 {
			skip = indexBits
			e = table[uint64(e>>16)+d.bits>>skip&low[e>>8&15]]
		}
		if e == invalid { // a code of one codeword, or of none: one bit has told, or there is nothing to tell
			return e, 0, d.corrupt()
		}
		if n := skip + uint(e&63); n <= d.nbits {
			v := d.bits >> skip & low[e&63] >> (e >> 8 & 15)
			d.bits >>= n
			d.nbits -= n
			return e, int(e&^isLiteral>>16) + int(v), nil
		}
		if err := d.need(d.nbits + 1); err != nil {
			return 0, 0, err
		}
	}
}

// stream decompresses a deflate stream to its end, the end of a byte.
func (d *inflater) stream() error {
	d.history = d.n
	for {
		h, err := d.take(3)
		if err != nil {
			return err
		}
		switch h >> 1 {
		case 0:
			err = d.stored()
		case 1:
			err = d.codes(fixed())
		case 2:
			if err = d.code(); err == nil {
				err = d.codes(&d.own)
			}
		default:
			err = d.corrupt()
		}
		if err != nil {
			return err
		}
		if h&1 != 0 {
			d.bits, d.nbits = 0, 0
			return nil
		}
	}
}

// room sees to it that a byte or a match can be written.
func (d *inflater) room() error {
	if d.n < window+block {
		return nil
	}
	return d.flush()
}

// flush hands on what there is.
func (d *inflater) flush() error {
	next, err := d.handOn(d.out, d.from, d.n)
	if err != nil {
		return err
	}
	moved := d.n - window
	copy(next[:window], d.out[moved:d.n])
	d.out, d.n, d.from = next, window, window
	d.history = max(0, d.history-moved)
	return nil
}

// stored copies a block that is not compressed.
func (d *inflater) stored() error {
	d.bits, d.nbits = 0, 0
	var h [4]byte
	for i := range h {
		b, err := d.readByte()
		if err != nil {
			return noEOF(err)
		}
		h[i] = b
	}
	if h[0]^h[2] != 0xff || h[1]^h[3] != 0xff {
		return d.corrupt()
	}
	for left := int(h[0]) | int(h[1])<<8; left > 0; {
		if d.pos == d.end {
			if err := d.fill(); err != nil {
				return noEOF(err)
			}
		}
		if err := d.room(); err != nil {
			return err
		}
		k := copy(d.out[d.n:window+block], d.in[d.pos:min(d.end, d.pos+left)])
		d.pos += k
		d.n += k
		left -= k
	}
	return nil
}

// codeOrder is the order in which the lengths of the code of lengths come.
var codeOrder = [19]uint8{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}

// code reads the code that a block brings.
func (d *inflater) code() error {
	h, err := d.take(14)
	if err != nil {
		return err
	}
	nlit, ndist, ncode := int(h&31)+257, int(h>>5&31)+1, int(h>>10)+4
	if nlit > 286 || ndist > 30 {
		return d.corrupt()
	}
	var lengths [286 + 30]uint8
	for i := range ncode {
		v, err := d.take(3)
		if err != nil {
			return err
		}
		lengths[codeOrder[i]] = uint8(v)
	}
	if !build(d.own.dist[:], codeBits, lengths[:19], codeSymbols[:]) {
		return d.corrupt()
	}
	clear(lengths[:19])
	for i := 0; i < nlit+ndist; {
		_, v, err := d.symbol(d.own.dist[:], codeBits)
		if err != nil {
			return err
		}
		if v < 16 {
			lengths[i] = uint8(v)
			i++
			continue
		}
		// The last length again, or zeros.
		least, n, what := 3, uint(2), uint8(0)
		switch {
		case v == 17:
			n = 3
		case v == 18:
			least, n = 11, 7
		case i == 0:
			return d.corrupt()
		default:
			what = lengths[i-1]
		}
		more, err := d.take(n)
		if err != nil {
			return err
		}
		if i+least+int(more) > nlit+ndist {
			return d.corrupt()
		}
		for range least + int(more) {
			lengths[i] = what
			i++
		}
	}
	if !build(d.own.lit[:], litBits, lengths[:nlit], litSymbols[:]) || !build(d.own.dist[:], distBits, lengths[nlit:nlit+ndist], distSymbols[:]) {
		return d.corrupt()
	}
	return nil
}

// codes decompresses to the end of a block: by fast, and where the input or the room for that are at an end one by one.
func (d *inflater) codes(t *tables) error {
	for {
		if err := d.room(); err != nil {
			return err
		}
		if d.end-d.pos >= fastInput {
			ended, ok := d.fast(t)
			if !ok {
				return d.corrupt()
			}
			if ended {
				return nil
			}
			if err := d.room(); err != nil {
				return err
			}
		}
		e, length, err := d.symbol(t.lit[:], litBits)
		if err != nil {
			return err
		}
		switch {
		case e&isLiteral != 0:
			d.out[d.n] = byte(length)
			d.n++
			continue
		case e&isEnd != 0:
			return nil
		case e&isOther != 0:
			return d.corrupt()
		}
		e, distance, err := d.symbol(t.dist[:], distBits)
		if err != nil {
			return err
		}
		if e&isOther != 0 || distance > d.n-d.history {
			return d.corrupt()
		}
		for range length {
			d.out[d.n] = d.out[d.n-distance]
			d.n++
		}
	}
}

// noEOF tells an end in the middle from one.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
