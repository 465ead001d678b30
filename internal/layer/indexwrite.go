package layer

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"github.com/klauspost/compress/zstd"
)

const indexMagic = "slipway index v2\n"

const (
	flagHardlink = 1 << iota
	flagWhiteout
	flagOpaque
	flagImplied
	flagDigest
)

// IndexWriter writes an index while the entries come, which must be of different paths. It keeps
// no more of them than their encoded bytes.
type IndexWriter struct {
	buf  []byte
	prev string
	size int64
}

// add notes an entry and where its content lies in the plain tar; -1 is not known.
func (w *IndexWriter) add(e *Entry, offset int64) {
	c := IndexEntry{Entry: *e, Offset: offset}
	c.ModTime = time.Unix(e.ModTime.Unix(), 0) // as the tar has it
	w.put(&c)
}

func (w *IndexWriter) put(e *IndexEntry) {
	w.buf = e.append(w.buf, w.prev)
	w.prev = e.Path
	if e.IsRegular() && !e.Hardlink {
		w.size += e.Size
	}
}

// Size adds up the bytes of all regular files.
func (w *IndexWriter) Size() int64 { return w.size }

// Encode returns the index as bytes: a magic line, the SHA-256 of what follows, and a zstd frame.
func (w *IndexWriter) Encode() ([]byte, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, fmt.Errorf("encoding index: %w", err)
	}
	packed := enc.EncodeAll(w.buf, nil)
	sum := sha256.Sum256(packed)
	return slices.Concat([]byte(indexMagic), sum[:], packed), nil
}

// append writes an entry as varints and length-prefixed strings; the path shares its beginning
// with the one before.
func (e *IndexEntry) append(b []byte, prev string) []byte {
	shared := 0
	for shared < len(prev) && shared < len(e.Path) && prev[shared] == e.Path[shared] {
		shared++
	}
	str := func(s string) {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	flags := uint64(0)
	for bit, set := range map[uint64]bool{flagHardlink: e.Hardlink, flagWhiteout: e.Whiteout, flagOpaque: e.Opaque, flagImplied: e.Implied, flagDigest: e.Digest != ""} {
		if set {
			flags |= bit
		}
	}
	b = binary.AppendUvarint(b, uint64(shared))
	str(e.Path[shared:])
	for _, v := range []uint64{flags, uint64(e.Mode), uint64(e.UID), uint64(e.GID), uint64(e.Major), uint64(e.Minor), uint64(e.Size)} {
		b = binary.AppendUvarint(b, v)
	}
	b = binary.AppendVarint(b, e.Offset)
	b = binary.AppendVarint(b, e.ModTime.Unix())
	b = binary.AppendUvarint(b, uint64(e.ModTime.Nanosecond()))
	str(e.Link)
	b = binary.AppendUvarint(b, uint64(len(e.Xattrs)))
	for _, k := range sortedKeys(e.Xattrs) {
		str(k)
		str(e.Xattrs[k])
	}
	if e.Digest != "" {
		sum, _ := hex.DecodeString(e.Digest.Encoded()) // a digest is hexadecimal
		str(string(sum))
	}
	return b
}
