package gunzip

import "encoding/binary"

// fastInput is how much input an iteration of fast wants to be there, in bytes: it loads eight bytes twice, and
// the second time after at most seven more.
const fastInput = 16

// fast decompresses while there is plenty of input and of room, which is nearly always. It reports whether the block
// has ended, and whether all was in order.
//
// Bits are loaded eight bytes at a time: above the nb bits that count there are some more, which the next load
// brings again. Only the six lowest bits of nb count: an entry is subtracted with all that is in it. After a load there are
// 56 bits or more. Three literals of the table itself and a length take at most 33 + 20 of them, a distance 28.
//
// Slices have their capacity so that the compiler sees how many bytes there are, and checks where they begin alone.
func (d *inflater) fast(t *tables) (ended, ok bool) {
	in, out := &d.in, d.out
	pos, n := uint(d.pos), uint(d.n)
	bits, nb := d.bits, uint64(d.nbits)
	lit, dist := &t.lit, &t.dist
	last, history := uint(d.end-fastInput), uint(d.history)
	ok = true
	for pos <= last && n < window+block {
		bits |= binary.LittleEndian.Uint64(in[pos:pos+8:pos+8]) << (nb & 63)
		pos += uint(^nb >> 3 & 7)
		nb |= 56
		e := lit[bits&(1<<litBits-1)]
		if e&isLiteral != 0 {
			out[n] = byte(e >> 16)
			n++
			bits >>= e & 63
			nb -= uint64(e)
			e = lit[bits&(1<<litBits-1)]
			if e&isLiteral != 0 {
				out[n] = byte(e >> 16)
				n++
				bits >>= e & 63
				nb -= uint64(e)
				e = lit[bits&(1<<litBits-1)]
				if e&isLiteral != 0 {
					out[n] = byte(e >> 16)
					n++
					bits >>= e & 63
					nb -= uint64(e)
					continue
				}
			}
		}
		if e&isOther != 0 {
			if e&isTable != 0 {
				bits >>= e & 63
				nb -= uint64(e)
				e = lit[(uint64(e>>16)+bits&low[e>>8&15])&(litSize-1)]
				if e&isLiteral != 0 {
					out[n] = byte(e >> 16)
					n++
					bits >>= e & 63
					nb -= uint64(e)
					continue
				}
			}
			if e&isOther != 0 {
				bits >>= e & 63
				nb -= uint64(e)
				ended = e&isEnd != 0
				ok = ended
				break
			}
		}
		length := uint(e>>16) + uint(bits&low[e&63]>>(e>>8&15))
		bits >>= e & 63
		nb -= uint64(e)

		bits |= binary.LittleEndian.Uint64(in[pos:pos+8:pos+8]) << (nb & 63)
		pos += uint(^nb >> 3 & 7)
		nb |= 56
		e = dist[bits&(1<<distBits-1)]
		if e&isOther != 0 {
			if e&isTable != 0 {
				bits >>= e & 63
				nb -= uint64(e)
				e = dist[(uint64(e>>16)+bits&low[e>>8&15])&(distSize-1)]
			}
			if e&isOther != 0 {
				ok = false
				break
			}
		}
		distance := uint(e>>16) + uint(bits&low[e&63]>>(e>>8&15))
		bits >>= e & 63
		nb -= uint64(e)
		if distance > n-history {
			ok = false
			break
		}

		// What is copied may be longer than the match, which the margin is for, and must not reach what it makes itself.
		from, to := n-distance, n+length
		switch {
		case distance >= 16:
			for {
				*(*[16]byte)(out[n : n+16 : n+16]) = *(*[16]byte)(out[from : from+16 : from+16])
				n += 16
				from += 16
				if n >= to {
					break
				}
			}
		case distance >= 8:
			for {
				*(*[8]byte)(out[n : n+8 : n+8]) = *(*[8]byte)(out[from : from+8 : from+8])
				n += 8
				from += 8
				if n >= to {
					break
				}
			}
		case distance == 1:
			v := uint64(out[from]) * 0x0101010101010101
			for n < to {
				binary.LittleEndian.PutUint64(out[n:n+8:n+8], v)
				n += 8
			}
		default:
			for n < to {
				out[n] = out[from]
				n++
				from++
			}
		}
		n = to
	}
	// Whole bytes are given back.
	nb &= 63
	d.pos, d.n = int(pos-uint(nb/8)), int(n)
	d.nbits = uint(nb & 7)
	d.bits = bits & low[nb&7]
	return ended, ok
}
