package gunzip

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"testing"
	"testing/iotest"
)

// bitWriter makes deflate streams that no encoder makes.
type bitWriter struct {
	b    []byte
	bits uint64
	n    int
}

func (w *bitWriter) put(v uint64, n int) {
	w.bits |= v << w.n
	for w.n += n; w.n >= 8; w.n -= 8 {
		w.b = append(w.b, byte(w.bits))
		w.bits >>= 8
	}
}

// align goes on to the beginning of a byte.
func (w *bitWriter) align() { w.put(0, -w.n&7) }

// symbol puts a literal or a length of the fixed code.
func (w *bitWriter) symbol(s int) {
	switch {
	case s < 144:
		w.put(uint64(reversed(0x30+s, 8)), 8)
	case s < 256:
		w.put(uint64(reversed(0x190+s-144, 9)), 9)
	case s < 280:
		w.put(uint64(reversed(s-256, 7)), 7)
	default:
		w.put(uint64(reversed(0xc0+s-280, 8)), 8)
	}
}

func (w *bitWriter) literals(n int) {
	for i := range n {
		w.symbol('a' + i%7)
	}
}

// match puts one of three bytes. It reaches back as many bytes as the distance's symbol and the number after it say.
func (w *bitWriter) match(dist int, extra uint64) {
	w.symbol(257)
	w.put(uint64(reversed(dist, 5)), 5)
	w.put(extra, max(0, dist/2-1))
}

func (w *bitWriter) stored(n int) {
	w.put(0, 3)
	w.align()
	w.put(uint64(n)|uint64(^n&0xffff)<<16, 32)
	w.b = append(w.b, make([]byte, n)...)
}

// codes begins a block with a code of its own: the lengths of the code of lengths by their symbols.
func (w *bitWriter) codes(nlit, ndist int, lengths map[int]uint64) {
	w.put(1|2<<1, 3)
	w.put(uint64(nlit-257), 5)
	w.put(uint64(ndist-1), 5)
	w.put(19-4, 4)
	for _, s := range codeOrder {
		w.put(lengths[int(s)], 3)
	}
}

// deflated is what f writes.
func deflated(f func(w *bitWriter)) []byte {
	w := &bitWriter{}
	f(w)
	w.align()
	return w.b
}

// member is a deflate stream with a header, and with the sum of what it has, if it has something.
func member(stream []byte) []byte {
	plain, _ := io.ReadAll(flate.NewReader(bytes.NewReader(stream)))
	b := append([]byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255}, stream...)
	b = binary.LittleEndian.AppendUint32(b, crc32.ChecksumIEEE(plain))
	return binary.LittleEndian.AppendUint32(b, uint32(len(plain)))
}

// hostile are streams which are wrong in one thing, or right by a hair's breadth. That they are wrong must be
// seen where it is, and not by the sum at the end: what a match reaches outside of its member came from others.
func hostile() map[string]struct {
	data []byte
	ok   bool
} {
	all := map[string]struct {
		data []byte
		ok   bool
	}{}
	add := func(name string, ok bool, before []byte, f func(w *bitWriter)) {
		all[name] = struct {
			data []byte
			ok   bool
		}{append(bytes.Clone(before), member(deflated(f))...), ok}
	}
	// With so many literals behind it fast does it, without them it is done by one symbol after the other.
	for behind, n := range map[string]int{"": 0, ", fast": 100} {
		fixed := func(f func(w *bitWriter)) func(w *bitWriter) {
			return func(w *bitWriter) {
				w.put(1|1<<1, 3)
				f(w)
				w.literals(n)
				w.symbol(256)
			}
		}
		first := member(deflated(fixed(func(w *bitWriter) { w.literals(1000) })))
		add("to the first byte"+behind, true, nil, fixed(func(w *bitWriter) { w.literals(2); w.match(1, 0) }))
		add("beyond the first byte"+behind, false, nil, fixed(func(w *bitWriter) { w.literals(2); w.match(2, 0) }))
		add("before any byte"+behind, false, nil, fixed(func(w *bitWriter) { w.match(0, 0) }))
		add("far beyond"+behind, false, nil, fixed(func(w *bitWriter) { w.literals(2); w.match(29, 1<<13-1) }))
		add("to the member's first byte"+behind, true, first, fixed(func(w *bitWriter) { w.literals(2); w.match(1, 0) }))
		add("into the member before"+behind, false, first, fixed(func(w *bitWriter) { w.literals(2); w.match(2, 0) }))
		add("length 286"+behind, false, nil, fixed(func(w *bitWriter) { w.literals(9); w.symbol(286); w.put(0, 5) }))
		add("length 287"+behind, false, nil, fixed(func(w *bitWriter) { w.literals(9); w.symbol(287); w.put(0, 5) }))
		for _, dist := range []int{30, 31} {
			add(fmt.Sprintf("distance %d%s", dist, behind), false, nil, fixed(func(w *bitWriter) { w.literals(9); w.symbol(257); w.put(uint64(reversed(dist, 5)), 5) }))
		}
		// The member begins 100 bytes before a buffer is full, and goes on in the next one.
		nearly := member(deflated(func(w *bitWriter) {
			for range 4 {
				w.stored(block/4 - 25)
			}
			w.put(1|1<<1, 3)
			w.symbol(256)
		}))
		across := func(extra uint64) func(w *bitWriter) {
			return fixed(func(w *bitWriter) { w.literals(200); w.match(15, extra) }) // 193 and what is extra
		}
		add("to the first byte, in the buffer before"+behind, true, nearly, across(200-193))
		add("into the member before, in the buffer before"+behind, false, nearly, across(201-193))
		add("the whole window"+behind, true, nil, func(w *bitWriter) {
			w.stored(window)
			fixed(func(w *bitWriter) { w.match(29, 1<<13-1) })(w)
		})
	}
	for i := range 16 {
		add(fmt.Sprintf("length of a stored block, bit %d", i), false, nil, func(w *bitWriter) {
			w.put(1, 3)
			w.align()
			w.put(3|uint64(^3&0xffff^1<<i)<<16, 32)
			w.put(0, 24)
		})
	}
	add("an empty stored block", true, nil, func(w *bitWriter) { w.stored(0); w.put(1|1<<1, 3); w.symbol(256) })
	add("a fourth kind of block", false, nil, func(w *bitWriter) { w.put(1|3<<1, 3) })
	add("an end alone", true, nil, func(w *bitWriter) { // by a code of one codeword; the code of lengths has 1, 18
		w.codes(257, 1, map[int]uint64{1: 1, 18: 1})
		w.put(1, 1)
		w.put(138-11, 7) // zeros
		w.put(1, 1)
		w.put(118-11, 7)
		w.put(0, 1) // the end's length
		w.put(0, 1) // a distance's
		w.put(0, 1)
	})
	few := map[int]int{0: 1, 256: 1, 600: 1}
	deep := map[int]int{256: 15, 600: 1}
	for i := range 15 {
		deep[i] = i + 1
	}
	deeper := maps.Clone(deep)
	deeper[15] = 15
	add("286 lengths and 30 distances", true, nil, func(w *bitWriter) { lengths(w, 286, 30, few); w.put(1, 1) })
	add("287 lengths", false, nil, func(w *bitWriter) { lengths(w, 287, 1, few); w.put(1, 1) })
	add("31 distances", false, nil, func(w *bitWriter) { lengths(w, 257, 31, few); w.put(1, 1) })
	add("codewords of 15 bits", true, nil, func(w *bitWriter) { lengths(w, 257, 1, deep); w.put(1<<13-1, 14); w.put(1<<15-1, 15) })
	add("too many codewords of 15 bits", false, nil, func(w *bitWriter) { lengths(w, 257, 1, deeper); w.put(1<<15-1, 15) })
	add("too few codewords of literals", false, nil, func(w *bitWriter) { lengths(w, 257, 1, map[int]int{0: 2, 256: 2, 600: 1}); w.put(2, 2) })
	add("too few codewords of distances", false, nil, func(w *bitWriter) { lengths(w, 257, 1, map[int]int{0: 1, 256: 1, 600: 2}); w.put(1, 1) })
	add("too few codewords of lengths", false, nil, func(w *bitWriter) { w.codes(257, 1, map[int]uint64{0: 1, 1: 2}); w.put(0, 60) })
	add("too many codewords of lengths", false, nil, func(w *bitWriter) { w.codes(257, 1, map[int]uint64{0: 1, 1: 1, 2: 1}); w.put(0, 60) })
	add("again at the beginning", false, nil, func(w *bitWriter) { // three zeros more, as if there were one before
		w.codes(257, 1, map[int]uint64{16: 2, 0: 2, 1: 1})
		w.put(3, 2)
		w.put(0, 2)
		for range 253 {
			w.put(1, 2)
		}
		w.put(0, 1) // the end's length
		w.put(0, 1) // a distance's
		w.put(0, 1)
	})
	return all
}

// lengths begins a block with codewords of these lengths, by their symbols. 600 is the first distance.
func lengths(w *bitWriter, nlit, ndist int, of map[int]int) {
	all := map[int]uint64{}
	for s := range 16 {
		all[s] = 4
	}
	w.codes(nlit, ndist, all)
	for i := range nlit + ndist {
		n := of[i]
		if i == nlit {
			n = of[600]
		}
		w.put(uint64(reversed(n, 4)), 4)
	}
}

func TestHostile(t *testing.T) {
	for name, c := range hostile() {
		want, werr := standard(c.data)
		if (werr == nil) != c.ok {
			t.Errorf("%s: compress/gzip has %v", name, werr)
		}
		for _, r := range []io.Reader{bytes.NewReader(c.data), iotest.OneByteReader(bytes.NewReader(c.data))} {
			got, err := read(r)
			var corrupt flate.CorruptInputError
			if c.ok && (err != nil || !bytes.Equal(got, want)) || !c.ok && (!errors.As(err, &corrupt) || !bytes.HasPrefix(want, got)) {
				t.Errorf("%s: %d bytes and %v, compress/gzip has %d and %v", name, len(got), err, len(want), werr)
			}
		}
	}
}

// Wherever a stream is cut off, that is said, and nothing is made up of what was in the memory behind it.
func TestCutOff(t *testing.T) {
	for name, c := range hostile() {
		if !c.ok || len(c.data) > 2000 {
			continue
		}
		want, _ := read(bytes.NewReader(c.data))
		for n := range c.data {
			got, err := read(bytes.NewReader(c.data[:n]))
			_, werr := standard(c.data[:n])
			if kind(err) != kind(werr) || !bytes.HasPrefix(want, got) {
				t.Errorf("%s, %d of %d bytes: %d bytes and %v, compress/gzip has %v", name, n, len(c.data), len(got), err, werr)
			}
		}
	}
}

// A header is read as compress/gzip reads it.
func TestHeader(t *testing.T) {
	body := member(deflated(func(w *bitWriter) { w.put(1|1<<1, 3); w.literals(9); w.symbol(256) }))[10:]
	sum := func(b []byte) []byte { return binary.LittleEndian.AppendUint16(b, uint16(crc32.ChecksumIEEE(b))) }
	head := func(flags byte, more ...byte) []byte {
		return append([]byte{0x1f, 0x8b, 8, flags, 0, 0, 0, 0, 0, 255}, more...)
	}
	name := func(n int) []byte { return append(bytes.Repeat([]byte{'n'}, n), 0) }
	wrong := sum(head(2))
	wrong[11] ^= 1
	for what, c := range map[string]struct {
		head []byte
		ok   bool
	}{
		"nothing":             {head(0), true},
		"text and reserved":   {head(0xe1), true},
		"a sum":               {sum(head(2)), true},
		"a wrong sum":         {wrong, false},
		"extra fields":        {head(4, append([]byte{255, 255}, make([]byte, 65535)...)...), true},
		"no extra fields":     {head(4, 0, 0), true},
		"a long name":         {head(8, name(maxText-1)...), true},
		"a longer name":       {head(8, name(maxText)...), false},
		"a longer comment":    {head(16, name(maxText)...), false},
		"all":                 {sum(head(31, append(append([]byte{1, 0, 7}, name(3)...), name(4)...)...)), true},
		"another compression": {[]byte{0x1f, 0x8b, 7, 0, 0, 0, 0, 0, 0, 255}, false},
	} {
		data := append(bytes.Clone(c.head), body...)
		_, werr := standard(data)
		_, err := read(iotest.OneByteReader(bytes.NewReader(data)))
		if (err == nil) != c.ok || kind(err) != kind(werr) {
			t.Errorf("%s: %v, compress/gzip has %v", what, err, werr)
		}
	}
	for bit := range 64 {
		data := append(head(0), body...)
		data[len(data)-8+bit/8] ^= 1 << (bit % 8)
		if _, err := read(bytes.NewReader(data)); err != gzip.ErrChecksum {
			t.Errorf("bit %d of the sum or the size: %v, want %v", bit, err, gzip.ErrChecksum)
		}
	}
}

// padded is what compress/gzip makes of a stream, member by member, between which zeros may stand.
func padded(data []byte) ([]byte, error) {
	r := bytes.NewReader(data)
	var all []byte
	var zr gzip.Reader
	for first := true; ; first = false {
		if !first {
			r = bytes.NewReader(bytes.TrimLeft(data[len(data)-r.Len():], "\x00"))
			if data = data[len(data)-r.Len():]; len(data) == 0 {
				return all, nil
			}
		}
		if err := zr.Reset(r); err != nil {
			return all, noEOF(err)
		}
		zr.Multistream(false)
		b, err := io.ReadAll(&zr)
		if all = append(all, b...); err != nil {
			return all, err
		}
	}
}
