// Package digests remembers the digests of files' contents from one process to the next, so that a file that was not
// written to is not read again for them.
package digests

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"slices"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/internal/layer"
)

// Memory remembers the contents of files by their stamps. It is a [layer.Memory].
//
// # Invariants
//
// A file that was changed within the resolution of the clock has the same stamp as before. So
// something is only remembered when the file's change time is older than that, as it was read (the
// rule of git's index).
type Memory struct {
	tmp string // the directory of files without a name for what memory has no room for; "" is the system's

	saved *records      // of an earlier process in the order of their inodes; nil: none
	first []inode       // of each page of saved
	used  []atomic.Bool // which of them were

	mu    sync.Mutex
	fresh records // replaces what was saved; of several for one file the last one counts
	at    table   // where in fresh files are
	dirty bool
}

type inode struct{ dev, ino uint64 }

func (a inode) compare(b inode) int {
	return cmp.Or(cmp.Compare(a.dev, b.dev), cmp.Compare(a.ino, b.ino))
}

// known is what is known of a file in one version.
type known struct {
	stamp  layer.Stamp
	digest [sha256.Size]byte // of the content
	place  int64             // of the content in a file of the caller's, who has one
	age    uint8             // saves since it was last used
	racy   bool              // true for this process only
}

func (k *known) inode() inode { return inode{k.stamp.Dev, k.stamp.Ino} }

// A saved file is the magic line, the SHA-256 of the records, and the records.
const (
	digestsMagic = "slipway digests v4\n"
	headSize     = len(digestsMagic) + sha256.Size
	// recordSize is that of six 64-bit numbers, an age and a digest.
	recordSize = 6*8 + 1 + sha256.Size
	// maxAge is after how many saves without use a digest is dropped.
	maxAge    = 20
	racyAge   = 255 // in memory only
	clockStep = layer.ClockStep
)

// Open reads what an earlier process has saved in a file; "" is none. Damage is a miss. What memory has no room for is
// kept in the directory tmp; "" is the system's.
func Open(file, tmp string) *Memory {
	d := &Memory{tmp: tmp}
	if file == "" {
		return d
	}
	f, err := os.Open(file)
	if err != nil {
		return d
	}
	if err := d.open(f); err != nil {
		d.saved, d.first = nil, nil
		f.Close()
		return d
	}
	d.used = make([]atomic.Bool, d.saved.n)
	return d
}

var errDigests = errors.New("reading digests: they are of another version, or damaged")

// open checks the file, and keeps its first pages.
func (d *Memory) open(f *os.File) error {
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	head := make([]byte, headSize)
	if _, err := io.ReadFull(f, head); err != nil || !bytes.HasPrefix(head, []byte(digestsMagic)) || (fi.Size()-int64(headSize))%recordSize != 0 {
		return errDigests
	}
	d.saved = openRecords(f, int64(headSize), int((fi.Size()-int64(headSize))/recordSize))
	h, b := sha256.New(), []byte(nil)
	for i, p := range d.saved.pages {
		size := min(pageSize, (d.saved.n-i*pageRecords)*recordSize)
		if i < maxPages || b == nil {
			b = make([]byte, size)
		}
		b = b[:size]
		if _, err := io.ReadFull(f, b); err != nil {
			return err
		}
		h.Write(b)
		d.first = append(d.first, inodeOf(b))
		if i < maxPages {
			page := b
			p.Store(&page)
			d.saved.loaded.Add(1)
		}
		if i == maxPages-1 {
			b = nil
		}
	}
	if !bytes.Equal(h.Sum(nil), head[len(digestsMagic):]) {
		return errDigests
	}
	return nil
}

// append adds the record of a file.
func (k *known) append(b []byte) []byte {
	for _, v := range []uint64{k.stamp.Dev, k.stamp.Ino, uint64(k.stamp.Size), uint64(k.stamp.Mtime), uint64(k.stamp.Ctime), uint64(k.place)} {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return append(append(b, k.age), k.digest[:]...)
}

// decode is the opposite of append.
func decode(r []byte) known {
	n := func(i int) uint64 { return binary.LittleEndian.Uint64(r[i*8:]) }
	return known{
		stamp:  layer.Stamp{Dev: n(0), Ino: n(1), Size: int64(n(2)), Mtime: int64(n(3)), Ctime: int64(n(4))},
		place:  int64(n(5)),
		age:    r[48],
		racy:   r[48] == racyAge,
		digest: [sha256.Size]byte(r[49:]),
	}
}

func inodeOf(r []byte) inode {
	return inode{binary.LittleEndian.Uint64(r), binary.LittleEndian.Uint64(r[8:])}
}

// find looks for a file in the saved records. An error of the disk is a miss.
func (d *Memory) find(id inode) (known, bool) {
	page := sort.Search(len(d.first), func(i int) bool { return id.compare(d.first[i]) < 0 }) - 1
	if page < 0 {
		return known{}, false
	}
	p, err := d.saved.page(page)
	if err != nil {
		return known{}, false
	}
	i, ok := sort.Find(len(p)/recordSize, func(i int) int { return id.compare(inodeOf(p[i*recordSize:])) })
	if !ok {
		return known{}, false
	}
	if used := &d.used[page*pageRecords+i]; !used.Load() {
		used.Store(true)
	}
	return decode(p[i*recordSize:]), true
}

// findFresh looks for a file in the records of this process; d.mu is held.
func (d *Memory) findFresh(id inode) (k known, ok bool) {
	d.at.find(id, func(i int) bool {
		r, err := d.fresh.at(i)
		if ok = err == nil && inodeOf(r) == id; ok {
			k = decode(r)
		}
		return ok
	})
	return k, ok
}

// Recall implements [layer.Memory].
func (d *Memory) Recall(s layer.Stamp) digest.Digest {
	id := inode{s.Dev, s.Ino}
	k, ok := d.find(id)
	if !ok || k.stamp != s {
		d.mu.Lock()
		f, fresh := d.findFresh(id)
		d.mu.Unlock()
		if fresh {
			k, ok = f, true
		}
		if !ok || k.stamp != s {
			return ""
		}
	}
	return layer.SHA256Digest(k.digest[:])
}

// Find tells what [Memory.NotePlace] said last of a file in one version.
func (d *Memory) Find(s layer.Stamp) (sum digest.Digest, place int64, ok bool) {
	id := inode{s.Dev, s.Ino}
	d.mu.Lock()
	k, ok := d.findFresh(id)
	d.mu.Unlock()
	if !ok || k.stamp != s {
		k, ok = d.find(id)
	}
	if !ok || k.stamp != s {
		return "", 0, false
	}
	return layer.SHA256Digest(k.digest[:]), k.place, true
}

// Note implements [layer.Memory]. The file may change without another stamp when it was read too close to its last
// change: then its digest is known to this process only.
func (d *Memory) Note(s layer.Stamp, read time.Time, sum digest.Digest) { d.NotePlace(s, read, sum, 0) }

// NotePlace is Note for one who keeps the contents themselves.
func (d *Memory) NotePlace(s layer.Stamp, read time.Time, sum digest.Digest, place int64) {
	raw, err := hex.DecodeString(sum.Encoded())
	if err != nil || len(raw) != sha256.Size {
		return
	}
	k := known{stamp: s, digest: [sha256.Size]byte(raw), place: place, racy: !s.OlderThan(read)}
	if k.racy {
		k.age = racyAge
	}
	var b [recordSize]byte
	d.mu.Lock()
	defer d.mu.Unlock()
	i := d.fresh.n
	d.fresh.add(k.append(b[:0]), d.tmp)
	d.at.put(k.inode(), i, func(i int) bool {
		r, err := d.fresh.at(i)
		return err == nil && inodeOf(r) == k.inode()
	})
	d.dirty = d.dirty || !k.racy
}

// Each tells of all files that an earlier process has saved.
func (d *Memory) Each(tell func(s layer.Stamp, place int64)) error {
	for i := range d.used {
		r, err := d.saved.at(i)
		if err != nil {
			return err
		}
		k := decode(r)
		tell(k.stamp, k.place)
	}
	return nil
}

// SaveTo writes a file anew, so that others read the old or the new one.
func (d *Memory) SaveTo(name string) error {
	return d.Save(func(write func(*os.File) error) error { return replaceFile(name, write) })
}

// Save hands what a later process may use to put, which calls write with an empty file that it then puts in place of
// the one that was opened. Nothing happens when there is nothing new.
func (d *Memory) Save(put func(write func(*os.File) error) error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.dirty {
		return nil
	}
	err := put(d.write)
	d.dirty = err != nil
	return err
}

// write writes the file anew: the saved records and the fresh ones, merged.
func (d *Memory) write(f *os.File) error {
	if _, err := f.Write(append([]byte(digestsMagic), make([]byte, sha256.Size)...)); err != nil {
		return err
	}
	fresh, err := d.sorted()
	if err != nil {
		return err
	}
	h := sha256.New()
	w := bufio.NewWriterSize(io.MultiWriter(f, h), 64<<10)
	put := func(k known) {
		if !k.racy && k.age < maxAge {
			k.age++
			w.Write(k.append(w.AvailableBuffer())) //nolint:errcheck // Flush tells
		}
	}
	for i := range d.used {
		r, err := d.saved.at(i)
		if err != nil {
			return err
		}
		k := decode(r)
		for len(fresh) > 0 && fresh[0].compare(k.inode()) < 0 {
			if fresh, err = d.next(fresh, put); err != nil {
				return err
			}
		}
		if len(fresh) > 0 && fresh[0].inode == k.inode() {
			continue // it is replaced
		}
		if d.used[i].Load() {
			k.age = 0
		}
		put(k)
	}
	for len(fresh) > 0 {
		if fresh, err = d.next(fresh, put); err != nil {
			return err
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err = f.WriteAt(h.Sum(nil), int64(len(digestsMagic)))
	return err
}

// place is where a file is among the fresh records.
type place struct {
	inode
	i int
}

// sorted tells where the fresh records are, in the order of their inodes, each file's last.
func (d *Memory) sorted() ([]place, error) {
	all := make([]place, 0, d.at.n)
	for i := range d.fresh.n {
		r, err := d.fresh.at(i)
		if err != nil {
			return nil, err
		}
		id, last := inodeOf(r), false
		d.at.find(id, func(j int) bool {
			if last = j == i; last {
				return true
			}
			r, err := d.fresh.at(j)
			return err == nil && inodeOf(r) == id
		})
		if last {
			all = append(all, place{id, i})
		}
	}
	slices.SortFunc(all, func(a, b place) int { return a.compare(b.inode) })
	return all, nil
}

// next puts the first of the fresh records.
func (d *Memory) next(fresh []place, put func(known)) ([]place, error) {
	var b [recordSize]byte
	err := d.fresh.read(b[:], fresh[0].i)
	if err == nil {
		put(decode(b[:]))
	}
	return fresh[1:], err
}
