package rpmdb

import (
	"bytes"
	"encoding/binary"
	"strconv"
)

// A header (rpm's lib/header.c) is the number of its entries, the length of its data, both in four bytes, the entries, and the data. All
// numbers are big-endian. An entry is a tag, a type, an offset in the data and a count.
const (
	headerEntry = 16

	tagName     = 1000
	tagVersion  = 1001
	tagRelease  = 1002
	tagEpoch    = 1003
	tagSize     = 1009
	tagArch     = 1022
	tagLongSize = 5009 // in the place of tagSize, of a package of 4 GiB and more

	typeInt32  = 4
	typeInt64  = 5
	typeString = 6
)

// maxText is how many bytes of a name or a version there are.
const maxText = 1024

// parseHeader reads the header of a package.
func parseHeader(b []byte) (p Package, err error) {
	if len(b) < 8 {
		return p, damaged("a header has %d bytes", len(b))
	}
	n, size := int64(binary.BigEndian.Uint32(b)), int64(binary.BigEndian.Uint32(b[4:]))
	if 8+n*headerEntry+size > int64(len(b)) {
		return p, damaged("a header with %d entries and %d bytes of data has %d bytes", n, size, len(b))
	}
	entries, data := b[8:8+n*headerEntry], b[8+n*headerEntry:][:size]
	var version, release, epoch string
	for ; len(entries) > 0; entries = entries[headerEntry:] {
		tag, kind := binary.BigEndian.Uint32(entries), binary.BigEndian.Uint32(entries[4:])
		at := min(int64(binary.BigEndian.Uint32(entries[8:])), size)
		switch value := data[at:]; {
		case tag == tagName && kind == typeString:
			p.Name = text(value)
		case tag == tagVersion && kind == typeString:
			version = text(value)
		case tag == tagRelease && kind == typeString:
			release = text(value)
		case tag == tagArch && kind == typeString:
			p.Arch = text(value)
		case tag == tagEpoch && kind == typeInt32 && len(value) >= 4:
			epoch = strconv.FormatUint(uint64(binary.BigEndian.Uint32(value)), 10) + ":"
		case tag == tagSize && kind == typeInt32 && len(value) >= 4:
			p.Size = int64(binary.BigEndian.Uint32(value))
		case tag == tagLongSize && kind == typeInt64 && len(value) >= 8:
			p.Size = int64(min(binary.BigEndian.Uint64(value), 1<<60))
		}
	}
	p.Version = epoch + version + "-" + release
	return p, nil
}

// text is a string up to its end.
func text(b []byte) string {
	b, _, _ = bytes.Cut(b[:min(len(b), maxText)], []byte{0})
	return string(b)
}
