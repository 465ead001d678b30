package gunzip

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"os"
	"strings"
	"testing"
	"testing/iotest"
)

// standard is what compress/gzip makes of a stream.
func standard(data []byte) ([]byte, error) {
	zr, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(zr)
}

func read(r io.Reader) ([]byte, error) {
	z := NewReader(r)
	defer z.Close()
	return io.ReadAll(z)
}

// kind tells errors of the same meaning from others.
func kind(err error) error {
	var corrupt flate.CorruptInputError
	switch {
	case err == nil, errors.Is(err, gzip.ErrHeader), errors.Is(err, gzip.ErrChecksum):
		return err
	case errors.As(err, &corrupt):
		return flate.CorruptInputError(0)
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return io.ErrUnexpectedEOF
	}
	return err
}

// compare reads a stream with both, in pieces of several sizes.
func compare(t *testing.T, name string, data []byte) {
	t.Helper()
	want, werr := standard(data)
	for from, r := range map[string]io.Reader{
		"at once":      bytes.NewReader(data),
		"with the end": iotest.DataErrReader(bytes.NewReader(data)),
		"odd pieces":   &pieces{data: data, sizes: []int{1, 17, 15, 16, 3, 4096, 7, 131071, 64}},
		"bytes":        &pieces{data: data, sizes: []int{1}, until: 1000},
	} {
		got, err := read(r)
		if werr == nil && (err != nil || !bytes.Equal(got, want)) || kind(err) != kind(werr) && !(corrupt(err) && corrupt(werr)) {
			t.Fatalf("%s, %s: %d bytes and %v, compress/gzip has %d and %v", name, from, len(got), err, len(want), werr)
		}
		if !bytes.HasPrefix(got, want) && !bytes.HasPrefix(want, got) {
			t.Fatalf("%s, %s: other content before %v", name, from, err)
		}
	}
}

// corrupt reports whether an error is one that damage may have: which one depends on how much is looked at first.
func corrupt(err error) bool {
	k := kind(err)
	return k == flate.CorruptInputError(0) || k == io.ErrUnexpectedEOF || k == gzip.ErrChecksum || k == gzip.ErrHeader
}

// pieces gives data in pieces of these sizes, and all the rest from some place on.
type pieces struct {
	data  []byte
	sizes []int
	until int // 0: nowhere
	i     int
	given int
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.data) == 0 {
		return 0, io.EOF
	}
	p.i++
	size := min(len(p.data), p.sizes[p.i%len(p.sizes)])
	if p.until > 0 && p.given > p.until {
		size = len(p.data)
	}
	n := copy(b, p.data[:size])
	p.data, p.given = p.data[n:], p.given+n
	return n, nil
}

// contents are of many kinds: what repeats at each distance, what cannot be compressed, long runs, text.
func contents() map[string][]byte {
	r := rand.New(rand.NewSource(1))
	all := map[string][]byte{"nothing": nil, "a byte": {7}, "zeros": make([]byte, 3*block+5)}
	noise := make([]byte, 2*block+1)
	r.Read(noise)
	all["noise"] = noise
	text, err := os.ReadFile("inflate.go")
	if err != nil {
		panic(err)
	}
	for len(text) < 2*block {
		text = append(text, text[r.Intn(len(text)/2):]...)
	}
	all["text"] = text
	for _, distance := range []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 31, 255, 4096, 32767, 32768, 32769} {
		b := append([]byte(nil), noise[:distance]...)
		for len(b) < 100_000 {
			b = append(b, b[len(b)-distance:][:min(distance, 1+r.Intn(400))]...)
			if r.Intn(10) == 0 {
				b = append(b, byte(r.Intn(256)))
			}
		}
		all[fmt.Sprintf("distance %d", distance)] = b
	}
	few := make([]byte, block)
	for i := range few {
		few[i] = byte(r.ExpFloat64() * 8)
	}
	all["skewed"] = few // long codewords
	steep := make([]byte, 2*block)
	for i := range steep {
		b := 0
		for b < 200 && r.Intn(2) == 0 {
			b++
		}
		steep[i] = byte(b)
	}
	all["steep"] = steep // the longest
	return all
}

func compressed(data []byte, level int) []byte {
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, level)
	if err != nil {
		panic(err)
	}
	w.Write(data)
	w.Close()
	return b.Bytes()
}

var levels = []int{gzip.HuffmanOnly, gzip.NoCompression, gzip.BestSpeed, gzip.BestCompression}

func TestReader(t *testing.T) {
	for name, data := range contents() {
		for _, level := range levels {
			if level < gzip.BestSpeed && strings.HasPrefix(name, "distance") {
				continue // without matches it is noise
			}
			compare(t, fmt.Sprintf("%s, level %d", name, level), compressed(data, level))
		}
	}
}

// Whatever is cut off or changed is seen, as compress/gzip sees it.
func TestDamaged(t *testing.T) {
	r := rand.New(rand.NewSource(2))
	for name, data := range contents() {
		data = data[:min(len(data), 50_000)]
		for _, level := range levels {
			whole := compressed(data, level)
			for range 10 {
				compare(t, name+", cut off", whole[:r.Intn(len(whole))])
				changed := bytes.Clone(whole)
				for range 1 + r.Intn(3) {
					at := r.Intn(len(changed))
					if r.Intn(2) == 0 {
						at = r.Intn(min(len(changed), 200)) // where codes are
					}
					changed[at] ^= 1 << r.Intn(8)
				}
				compare(t, name+", changed", changed)
			}
		}
	}
}

// FuzzInflate compares what is decompressed, what is said and how much is read with compress/flate, without the checksum
// of gzip, which would hide all that is wrong.
func FuzzInflate(f *testing.F) {
	for _, data := range contents() {
		for _, level := range levels {
			f.Add(compressed(data[:min(len(data), 3000)], level)[10:], uint8(0))
			f.Add(compressed(data[:min(len(data), 3000)], level)[10:], uint8(20))
		}
	}
	f.Fuzz(func(t *testing.T, data []byte, size uint8) {
		std := bytes.NewReader(data)
		want, werr := io.ReadAll(io.LimitReader(flate.NewReader(std), 8<<20))
		if len(want) == 8<<20 {
			return
		}
		var got []byte
		r := io.Reader(bytes.NewReader(data))
		if size > 0 {
			r = &pieces{data: data, sizes: []int{int(size), 16, 1, 300}}
		}
		d := newInflater(r, new(buffer), func(b *buffer, from, to int) (*buffer, error) {
			got = append(got, b[from:to]...)
			return new(buffer), nil
		})
		err := d.stream()
		if _, ferr := d.handOn(d.out, d.from, d.n); ferr != nil {
			t.Fatal(ferr)
		}
		if (err == nil) != (werr == nil) {
			t.Fatalf("%v, compress/flate has %v", err, werr)
		}
		if !bytes.HasPrefix(got, want) && !bytes.HasPrefix(want, got) || err == nil && len(got) != len(want) {
			t.Fatalf("%d bytes and %v, compress/flate has %d and %v", len(got), err, len(want), werr)
		}
		if used := d.read - int64(d.end-d.pos); err == nil && used != int64(len(data)-std.Len()) {
			t.Fatalf("%d bytes were read, compress/flate reads %d", used, len(data)-std.Len())
		}
	})
}

// FuzzReader compares with compress/gzip.
func FuzzReader(f *testing.F) {
	for name, data := range contents() {
		f.Add(append(compressed(data[:min(len(data), 500)], 6), compressed([]byte(name), 1)...))
	}
	for _, c := range hostile() {
		f.Add(append(append(c.data, 0, 0), c.data...))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		want, werr := padded(data)
		got, err := read(bytes.NewReader(data))
		if (err == nil) != (werr == nil) || err == nil && !bytes.Equal(got, want) {
			t.Fatalf("%d bytes and %v, compress/gzip has %d and %v", len(got), err, len(want), werr)
		}
	})
}
