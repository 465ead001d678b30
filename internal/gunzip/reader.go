// Package gunzip decompresses gzip in half of the time that compress/gzip and its relatives take: layers come
// compressed with it, and unpacking one is mostly this. It is written in Go because what it reads comes from others.
//
// # Structure
//
// tables.go makes a table of each Huffman code, whose entries have all that there is to know of a codeword;
// inflate.go reads deflate's blocks (RFC 1951), where anything may be wrong and the input may end anywhere; fast.go is the
// loop that nearly all bytes go through; reader.go reads gzip's members (RFC 1952), ahead of its reader.
//
// # Caveats
//
// Besides what [compress/gzip] accepts, with its errors, zeros may follow a member, as they do in what was padded to whole
// blocks, and for gzip(1). Names and comments are skipped.
package gunzip

import (
	"compress/gzip"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"sync"
)

// buffers is how many blocks a reader has: one is read, one is written, two wait in between.
const buffers = 4

var spare = sync.Pool{New: func() any { return new(buffer) }}

var errClosed = errors.New("the gzip reader was closed")

// Reader is the content of a gzip stream. It is decompressed in a goroutine of its own, which has ended when a Read
// returns an error, or Close returns.
type Reader struct {
	pieces chan piece    // in their order; closed after the last one, when err is set
	free   chan *buffer  // to be used again
	stop   chan struct{} // closed by Close
	close  sync.Once
	err    error // what comes after the last piece

	all []*buffer // the goroutine's, until pieces is closed
	now piece     // what Read stands in
}

// piece is a part of a buffer, which belongs to who reads it.
type piece struct {
	b        *buffer
	from, to int
}

// NewReader returns a reader of r's content. It reads r to its end, and no further than to an error.
func NewReader(r io.Reader) *Reader {
	z := &Reader{pieces: make(chan piece, buffers-2), free: make(chan *buffer, buffers), stop: make(chan struct{})}
	go z.run(r)
	return z
}

func (z *Reader) run(r io.Reader) {
	m := members{}
	m.inflater = newInflater(r, z.buffer(), func(b *buffer, from, to int) (*buffer, error) {
		m.sum(to)
		m.summed = window
		return z.handOn(piece{b, from, to})
	})
	m.summed = m.n
	err := m.readAll()
	if m.n > m.from {
		select {
		case z.pieces <- piece{m.out, m.from, m.n}:
		case <-z.stop:
		}
	}
	z.err = err
	close(z.pieces)
}

// handOn gives a piece to the reader, and returns a buffer that nobody reads.
func (z *Reader) handOn(p piece) (*buffer, error) {
	select {
	case z.pieces <- p:
	case <-z.stop:
		return nil, errClosed
	}
	if len(z.all) < buffers && len(z.free) == 0 {
		return z.buffer(), nil
	}
	select {
	case b := <-z.free:
		return b, nil
	case <-z.stop:
		return nil, errClosed
	}
}

func (z *Reader) buffer() *buffer {
	b := spare.Get().(*buffer)
	z.all = append(z.all, b)
	return b
}

// next returns bytes that were not read.
func (z *Reader) next() ([]byte, error) {
	for z.now.from == z.now.to {
		if z.now.b != nil {
			z.free <- z.now.b
		}
		var ok bool
		if z.now, ok = <-z.pieces; !ok {
			return nil, z.err
		}
	}
	return z.now.b[z.now.from:z.now.to], nil
}

func (z *Reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	b, err := z.next()
	n := copy(p, b)
	z.now.from += n
	return n, err
}

// WriteTo implements [io.WriterTo].
func (z *Reader) WriteTo(w io.Writer) (int64, error) {
	var written int64
	for {
		b, err := z.next()
		if err == io.EOF {
			return written, nil
		}
		if err != nil {
			return written, err
		}
		n, err := w.Write(b)
		z.now.from += n
		written += int64(n)
		if err == nil && n < len(b) {
			err = io.ErrShortWrite
		}
		if err != nil {
			return written, err
		}
	}
}

// Close ends decompressing. It waits for a read of the input that is under way, and leaves the input open.
func (z *Reader) Close() error {
	z.close.Do(func() {
		close(z.stop)
		for range z.pieces {
		}
		z.err, z.now = errClosed, piece{}
		for _, b := range z.all {
			spare.Put(b)
		}
	})
	return nil
}

// members reads what is around the deflate streams.
type members struct {
	*inflater
	crc    uint32 // of the member, as the following are
	size   uint32 // modulo 2^32
	summed int    // how far in out
}

// sum adds what was decompressed to the sum.
func (m *members) sum(to int) {
	m.crc = crc32.Update(m.crc, crc32.IEEETable, m.out[m.summed:to])
	m.size += uint32(to - m.summed)
	m.summed = to
}

// readAll reads one member after the other. Its error is io.EOF when all was read and is in order.
func (m *members) readAll() error {
	for first := true; ; first = false {
		b, err := m.readByte()
		for err == nil && b == 0 && !first {
			b, err = m.readByte()
		}
		if err != nil {
			if first {
				err = noEOF(err)
			}
			return err
		}
		m.pos-- // it was just read
		if err := m.header(); err != nil {
			return noEOF(err)
		}
		m.crc, m.size = 0, 0
		if err := m.stream(); err != nil {
			return err
		}
		m.sum(m.n)
		crc, size := m.crc, m.size
		var tail [8]byte
		if err := m.bytes(tail[:]); err != nil {
			return noEOF(err)
		}
		if binary.LittleEndian.Uint32(tail[:]) != crc || binary.LittleEndian.Uint32(tail[4:]) != size {
			return gzip.ErrChecksum
		}
	}
}

// bytes reads bytes of a header or of what follows a member, and sums them up for a header.
func (m *members) bytes(p []byte) error {
	for i := range p {
		b, err := m.readByte()
		if err != nil {
			return err
		}
		p[i] = b
	}
	m.crc = crc32.Update(m.crc, crc32.IEEETable, p)
	return nil
}

// maxText is how long a name or a comment in a header may be, with the zero at its end.
const maxText = 512

// header reads the header of a member.
func (m *members) header() error {
	m.crc = 0
	var h [10]byte
	if err := m.bytes(h[:]); err != nil {
		return err
	}
	if h[0] != 0x1f || h[1] != 0x8b || h[2] != 8 {
		return gzip.ErrHeader
	}
	flags := h[3]
	if flags&4 != 0 { // extra fields
		var n [2]byte
		if err := m.bytes(n[:]); err != nil {
			return err
		}
		if err := m.bytes(make([]byte, binary.LittleEndian.Uint16(n[:]))); err != nil {
			return err
		}
	}
	for _, flag := range []byte{8, 16} { // a name, a comment
		if flags&flag == 0 {
			continue
		}
		for n, b := 0, [1]byte{1}; b[0] != 0; n++ {
			if n == maxText {
				return gzip.ErrHeader
			}
			if err := m.bytes(b[:]); err != nil {
				return err
			}
		}
	}
	if flags&2 != 0 {
		want := uint16(m.crc)
		var sum [2]byte
		if err := m.bytes(sum[:]); err != nil {
			return err
		}
		if binary.LittleEndian.Uint16(sum[:]) != want {
			return gzip.ErrHeader
		}
	}
	return nil
}
