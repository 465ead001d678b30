package gunzip

import (
	"math/bits"
	"sync"
)

// An entry of a table tells what the next bits of the input stand for.
//
//	bits 0-5    how many bits to take: of the codeword, and of the number after it
//	bits 8-11   how many of these are the codeword's
//	bits 12-15  isEnd, isTable, isOther
//	bits 16-30  the literal, or what is added to the number: the least length or distance
//	bit  31     isLiteral
//
// Codewords that are longer than the index of the table lead to an entry with isTable: bits 16-30 are the
// place of a further table, bits 8-11 say how many bits are its index.
type entry uint32

const (
	isLiteral entry = 1 << 31
	isOther   entry = 1 << 15 // neither a literal, a length nor a distance
	isTable   entry = 1 << 13 // with isOther
	isEnd     entry = 1 << 12 // with isOther: of the block
	invalid         = isOther // no codeword begins like this
)

// How many bits index the tables, and their sizes: powers of two that are not less than what any code needs with
// its further tables, which zlib's enough.c computes (2342 and 594).
const (
	litBits, litSize   = 11, 4096
	distBits, distSize = 9, 1024
	codeBits           = 7 // of the code of the lengths, which stands in the table of distances meanwhile

	maxBits = 15 // of a codeword
	numLit  = 288
	numDist = 32
)

type tables struct {
	lit  [litSize]entry
	dist [distSize]entry
}

// What the symbols of each alphabet stand for: entries without the codeword's bits.
var (
	litSymbols  [numLit]entry
	distSymbols [numDist]entry
	codeSymbols [19]entry
)

// low[n] has the n lowest bits.
var low [64]uint64

// fixed returns the tables of blocks that bring no code, and makes all that does not depend on the input.
var fixed = sync.OnceValue(func() *tables {
	for i := range low {
		low[i] = 1<<i - 1
	}
	for i := range codeSymbols {
		codeSymbols[i] = entry(i) << 16
	}
	for i := range litSymbols {
		litSymbols[i] = isLiteral | entry(i)<<16
		if i > 256 {
			litSymbols[i] = invalid
		}
	}
	litSymbols[256] = isOther | isEnd
	for i, base := 0, 3; i < 28; i++ {
		extra := max(0, i/4-1)
		litSymbols[257+i] = entry(base)<<16 | entry(extra)
		base += 1 << extra
	}
	litSymbols[285] = 258 << 16
	distSymbols[30], distSymbols[31] = invalid, invalid
	for i, base := 0, 1; i < 30; i++ {
		extra := max(0, i/2-1)
		distSymbols[i] = entry(base)<<16 | entry(extra)
		base += 1 << extra
	}
	var lit [numLit]uint8
	for i := range lit {
		switch {
		case i < 144, i >= 280:
			lit[i] = 8
		case i < 256:
			lit[i] = 9
		default:
			lit[i] = 7
		}
	}
	var dist [numDist]uint8
	for i := range dist {
		dist[i] = 5
	}
	t := new(tables)
	build(t.lit[:], litBits, lit[:], litSymbols[:])
	build(t.dist[:], distBits, dist[:], distSymbols[:])
	return t
})

// build makes the table, with indexBits as its index, of the code whose codewords have the given lengths. It
// reports whether there is such a code. Every index has an entry then: a code is complete, but one of a single codeword
// of one bit, and one of none, as compress/flate has it.
func build(table []entry, indexBits int, lengths []uint8, symbols []entry) bool {
	var count [maxBits + 1]int
	for _, l := range lengths {
		count[l]++
	}
	count[0] = 0
	longest, left := 0, 1
	for l := 1; l <= maxBits; l++ {
		if left = left<<1 - count[l]; left < 0 {
			return false
		}
		if count[l] > 0 {
			longest = l
		}
	}
	main := table[:1<<indexBits]
	if left > 0 {
		if longest > 1 || count[1] > 1 {
			return false
		}
		for i := range main {
			main[i] = invalid
		}
	}
	// The symbols in the order of their codewords.
	var sorted [numLit]uint16
	var next [maxBits + 2]int
	for l := 1; l <= maxBits; l++ {
		next[l+1] = next[l] + count[l]
	}
	for s, l := range lengths {
		if l != 0 {
			sorted[next[l]] = uint16(s)
			next[l]++
		}
	}
	code, i := 0, 0
	for l := 1; l <= min(indexBits, longest); l++ {
		code <<= 1
		for range count[l] {
			e := symbols[sorted[i]] + entry(l)*0x101
			for j := reversed(code, l); j < len(main); j += 1 << l {
				main[j] = e
			}
			code++
			i++
		}
	}
	if longest <= indexBits {
		return true
	}
	return further(table, indexBits, code, sorted[i:], &count, symbols)
}

// further makes the tables of what begins with the same indexBits bits and goes on. code is the last codeword of
// indexBits bits, plus one.
func further(table []entry, indexBits, code int, sorted []uint16, count *[maxBits + 1]int, symbols []entry) bool {
	end, beginning := 1<<indexBits, -1
	var sub []entry
	for l := indexBits + 1; l <= maxBits; l++ {
		code <<= 1
		rest := l - indexBits
		for k := range count[l] {
			if b := code >> rest; b != beginning {
				beginning = b
				subBits := rest
				for room := 1<<rest - (count[l] - k); room > 0 && indexBits+subBits < maxBits; subBits++ {
					room = room<<1 - count[indexBits+subBits+1]
				}
				if end+(1<<subBits) > len(table) {
					return false // cannot be: see litSize
				}
				sub = table[end : end+(1<<subBits)]
				table[reversed(b, indexBits)] = isOther | isTable | entry(end)<<16 | entry(subBits)<<8 | entry(indexBits)
				end += 1 << subBits
			}
			e := symbols[sorted[0]] + entry(rest)*0x101
			for j := reversed(code&(1<<rest-1), rest); j < len(sub); j += 1 << rest {
				sub[j] = e
			}
			sorted = sorted[1:]
			code++
		}
	}
	return true
}

// reversed is a codeword as it stands in the input, where its first bit is the lowest.
func reversed(code, n int) int { return int(bits.Reverse16(uint16(code)) >> (16 - n)) }
