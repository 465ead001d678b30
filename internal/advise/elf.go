package advise

import "encoding/binary"

// staticELF reports whether a file is an executable in the format ELF that names no interpreter, which would load libraries. debug/elf is larger than this
// question: it comes with DWARF, and takes a part of each start.
func staticELF(b []byte) bool {
	const (
		executable, shared = 2, 3 // types of files
		interpreter        = 3    // type of a program header
	)
	if len(b) < 64 || string(b[:4]) != "\x7fELF" {
		return false
	}
	order := binary.ByteOrder(binary.LittleEndian)
	if b[5] == 2 {
		order = binary.BigEndian
	}
	at, size, n := order.Uint64(b[32:]), order.Uint16(b[54:]), order.Uint16(b[56:])
	if b[4] == 1 { // 32 bits
		at, size, n = uint64(order.Uint32(b[28:])), order.Uint16(b[42:]), order.Uint16(b[44:])
	}
	if t := order.Uint16(b[16:]); t != executable && t != shared || n == 0 || size < 4 {
		return false
	}
	for i := range uint64(n) {
		from := at + i*uint64(size)
		if from < at || from+4 < from || from+4 > uint64(len(b)) {
			return false
		}
		if order.Uint32(b[from:]) == interpreter {
			return false
		}
	}
	return true
}
