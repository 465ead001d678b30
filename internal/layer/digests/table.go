package digests

import "math/bits"

// table tells the numbers of records by the inodes of their files, in twelve bytes or so for each. It does not
// hold the inodes: of records that may be the right one the caller finds that out.
type table struct {
	slots []uint64 // some bits of the inode's hash above the number, plus one; 0 is free
	n     int
}

const numberBits = 40

func hashOf(id inode) uint64 {
	const k = 0x9e3779b97f4a7c15 // odd, and its bits look random
	h := (id.dev + k) * k
	h = (h ^ h>>32 ^ id.ino) * k
	return (h ^ h>>29) * k
}

// find calls is with numbers until it says that it is the one.
func (t *table) find(id inode, is func(i int) bool) {
	if len(t.slots) > 0 {
		t.probe(hashOf(id), is)
	}
}

// probe gives the slot of a number, or the free one for it.
func (t *table) probe(h uint64, is func(i int) bool) *uint64 {
	for at := t.home(h); ; at++ {
		s := &t.slots[at&(len(t.slots)-1)]
		if *s == 0 || *s>>numberBits == h>>numberBits && is(int(*s&(1<<numberBits-1))-1) {
			return s
		}
	}
}

// home is where the search for a hash begins; the bits that are kept of it tell.
func (t *table) home(h uint64) int {
	hi, _ := bits.Mul64(h>>numberBits<<numberBits, uint64(len(t.slots)))
	return int(hi)
}

func (t *table) grow() {
	old := t.slots
	t.slots = make([]uint64, max(64, 2*len(old)))
	for _, s := range old {
		if s != 0 {
			*t.probe(s, func(int) bool { return false }) = s
		}
	}
}

// put notes the number of an inode, in place of the one for which is says so.
func (t *table) put(id inode, i int, is func(i int) bool) {
	if t.n*4 >= len(t.slots)*3 {
		t.grow()
	}
	s := t.probe(hashOf(id), is)
	if *s == 0 {
		t.n++
	}
	*s = hashOf(id)>>numberBits<<numberBits | uint64(i+1)
}
