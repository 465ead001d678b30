package local

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/internal/layer"
)

// digests remembers the contents of a user's files by their stamps, so that a file that was not
// written to is not read again. It is a [layer.Memory].
//
// # Invariants
//
// A file that was changed within the resolution of the clock has the same stamp as before. So
// something is only remembered when the file's change time is older than that, as it was read (the
// rule of git's index).
type digests struct {
	file string // "" is in memory only

	saved []byte        // records of an earlier process in the order of their inodes
	used  []atomic.Bool // which of them were

	mu    sync.Mutex
	fresh map[inode]known // replaces what was saved
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
	age    uint8             // saves since it was last used
	racy   bool              // true for this process only
}

func (k *known) inode() inode { return inode{k.stamp.Dev, k.stamp.Ino} }

// A saved file is the magic line, the SHA-256 of the records, and the records.
const (
	digestsMagic = "slipway digests v3\n"
	// recordSize is that of five 64-bit numbers, an age and a digest.
	recordSize = 5*8 + 1 + sha256.Size
	// maxAge is after how many saves without use a digest is dropped.
	maxAge    = 20
	clockStep = layer.ClockStep
)

// openDigests reads what an earlier process saved. Damage is a miss.
func openDigests(file string) *digests {
	d := &digests{file: file, fresh: map[inode]known{}}
	if file == "" {
		return d
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return d
	}
	rest, ok := bytes.CutPrefix(data, []byte(digestsMagic))
	if !ok || len(rest) < sha256.Size || (len(rest)-sha256.Size)%recordSize != 0 {
		return d
	}
	records := rest[sha256.Size:]
	if sum := sha256.Sum256(records); !bytes.Equal(sum[:], rest[:sha256.Size]) {
		return d
	}
	d.saved, d.used = records, make([]atomic.Bool, len(records)/recordSize)
	return d
}

// append adds the record of a file.
func (k *known) append(b []byte) []byte {
	for _, v := range []uint64{k.stamp.Dev, k.stamp.Ino, uint64(k.stamp.Size), uint64(k.stamp.Mtime), uint64(k.stamp.Ctime)} {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return append(append(b, k.age), k.digest[:]...)
}

// record decodes the i-th of the saved records.
func (d *digests) record(i int) known {
	r := d.saved[i*recordSize : (i+1)*recordSize]
	n := func(i int) uint64 { return binary.LittleEndian.Uint64(r[i*8:]) }
	return known{
		stamp:  layer.Stamp{Dev: n(0), Ino: n(1), Size: int64(n(2)), Mtime: int64(n(3)), Ctime: int64(n(4))},
		age:    r[40],
		digest: [sha256.Size]byte(r[41:]),
	}
}

// find looks for a file in the saved records.
func (d *digests) find(id inode) (known, bool) {
	i, ok := sort.Find(len(d.used), func(i int) int {
		r := d.saved[i*recordSize:]
		if dev := binary.LittleEndian.Uint64(r); dev != id.dev {
			return cmp.Compare(id.dev, dev)
		}
		return cmp.Compare(id.ino, binary.LittleEndian.Uint64(r[8:]))
	})
	if !ok {
		return known{}, false
	}
	if !d.used[i].Load() {
		d.used[i].Store(true)
	}
	return d.record(i), true
}

// Recall implements [layer.Memory].
func (d *digests) Recall(s layer.Stamp) digest.Digest {
	id := inode{s.Dev, s.Ino}
	k, ok := d.find(id)
	if !ok || k.stamp != s {
		d.mu.Lock()
		f, fresh := d.fresh[id]
		d.mu.Unlock()
		if fresh {
			k, ok = f, true
		}
		if !ok || k.stamp != s {
			return ""
		}
	}
	return sha256Digest(&k.digest)
}

// sha256Digest is digest.NewDigestFromBytes with one allocation.
func sha256Digest(sum *[sha256.Size]byte) digest.Digest {
	const prefix = string(digest.SHA256) + ":"
	var b [len(prefix) + 2*sha256.Size]byte
	copy(b[:], prefix)
	hex.Encode(b[len(prefix):], sum[:])
	return digest.Digest(b[:])
}

// note remembers the digest of a file in a version that was read after a point in time. It may change
// without another stamp when that is too close to its last change.
func (d *digests) note(s layer.Stamp, read time.Time, sum [sha256.Size]byte) {
	k := known{stamp: s, digest: sum, racy: !s.OlderThan(read)}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fresh[k.inode()] = k
	d.dirty = d.dirty || !k.racy
}

// hash reads a file and remembers its digest.
func (d *digests) hash(e *layer.Entry) (digest.Digest, error) {
	now := time.Now()
	sum, err := layer.HashContent(e)
	s, ok := e.Content.(layer.Stamped)
	if err != nil || !ok {
		return sum, err
	}
	raw, err := hex.DecodeString(sum.Encoded())
	if err != nil {
		return "", err
	}
	d.note(s.Stamp(), now, [sha256.Size]byte(raw))
	return sum, nil
}

// save writes what a later process may use, if there is anything new.
func (d *digests) save() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.file == "" || !d.dirty {
		return nil
	}
	all := make([]known, 0, len(d.used)+len(d.fresh))
	for i := range d.used {
		k := d.record(i)
		if _, ok := d.fresh[k.inode()]; ok {
			continue
		}
		if d.used[i].Load() {
			k.age = 0
		}
		all = append(all, k)
	}
	for _, k := range d.fresh {
		all = append(all, k)
	}
	slices.SortFunc(all, func(a, b known) int { return a.inode().compare(b.inode()) })
	var records []byte
	for _, k := range all {
		if !k.racy && k.age < maxAge {
			k.age++
			records = k.append(records)
		}
	}
	sum := sha256.Sum256(records)
	if err := replaceFile(d.file, slices.Concat([]byte(digestsMagic), sum[:], records)); err != nil {
		return fmt.Errorf("remembering the digests of the build context: %w", err)
	}
	d.dirty = false
	return nil
}

// replaceFile writes a file so that readers see the old or the new one.
func replaceFile(name string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(name), filepath.Base(name)+".*")
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			return err
		}
		f, err = os.CreateTemp(filepath.Dir(name), filepath.Base(name)+".*")
	}
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err := errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return os.Rename(f.Name(), name)
}
