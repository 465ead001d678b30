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
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/internal/layer"
)

// digests remembers the contents of a user's files by their stamps, so that a file that was not
// written to is not read again.
//
// # Invariants
//
// A file that was written to within the resolution of the clock has the same stamp as before. So
// a digest is only remembered when the file's change time is older than that, as it was read (the
// rule of git's index).
type digests struct {
	file string // "" is in memory only

	mu    sync.Mutex
	known map[inode]known
	dirty bool
}

type inode struct{ dev, ino uint64 }

type known struct {
	stamp  layer.Stamp
	digest [sha256.Size]byte
	age    uint8 // saves since it was last used
	racy   bool  // true for this process only
}

const (
	digestsMagic = "slipway digests v1\n"
	// recordSize is that of five 64-bit numbers, an age and a digest.
	recordSize = 5*8 + 1 + sha256.Size
	// maxAge is after how many saves without use a digest is dropped.
	maxAge = 20
	// clockStep bounds the resolution of a filesystem's clock on Linux: a tick of 100 Hz, doubled.
	clockStep = 20 * time.Millisecond
)

// openDigests reads what an earlier process saved. Damage is a miss.
func openDigests(file string) *digests {
	d := &digests{file: file, known: map[inode]known{}}
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
	d.known = make(map[inode]known, len(records)/recordSize)
	for ; len(records) > 0; records = records[recordSize:] {
		n := func(i int) uint64 { return binary.LittleEndian.Uint64(records[i*8:]) }
		k := known{
			stamp: layer.Stamp{Dev: n(0), Ino: n(1), Size: int64(n(2)), Mtime: int64(n(3)), Ctime: int64(n(4))},
			age:   records[40], digest: [sha256.Size]byte(records[41:recordSize]),
		}
		d.known[inode{k.stamp.Dev, k.stamp.Ino}] = k
	}
	return d
}

// lookup returns the digest of a file in the version that its entry describes, or "".
func (d *digests) lookup(e *layer.Entry) digest.Digest {
	s, ok := e.Content.(layer.Stamped)
	if !ok {
		return ""
	}
	stamp := s.Stamp()
	id := inode{stamp.Dev, stamp.Ino}
	d.mu.Lock()
	defer d.mu.Unlock()
	k, ok := d.known[id]
	if !ok || k.stamp != stamp {
		return ""
	}
	if k.age > 0 {
		k.age = 0
		d.known[id] = k
	}
	return digest.NewDigestFromBytes(digest.SHA256, k.digest[:])
}

// hash reads a file and remembers its digest.
func (d *digests) hash(e *layer.Entry) (digest.Digest, error) {
	now := time.Now()
	sum, err := layer.HashContent(e)
	s, ok := e.Content.(layer.Stamped)
	if err != nil || !ok {
		return sum, err
	}
	k := known{stamp: s.Stamp()}
	raw, err := hex.DecodeString(sum.Encoded())
	if err != nil {
		return "", err
	}
	k.digest = [sha256.Size]byte(raw)
	k.racy = k.stamp.Ctime >= now.Add(-clockStep).UnixNano()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.known[inode{k.stamp.Dev, k.stamp.Ino}] = k
	d.dirty = d.dirty || !k.racy
	return sum, nil
}

// save writes what a later process may use, if there is anything new.
func (d *digests) save() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.file == "" || !d.dirty {
		return nil
	}
	ids := slices.SortedFunc(maps.Keys(d.known), func(a, b inode) int {
		return cmp.Or(cmp.Compare(a.dev, b.dev), cmp.Compare(a.ino, b.ino))
	})
	var records []byte
	for _, id := range ids {
		k := d.known[id]
		if k.racy || k.age >= maxAge {
			continue
		}
		for _, v := range []uint64{k.stamp.Dev, k.stamp.Ino, uint64(k.stamp.Size), uint64(k.stamp.Mtime), uint64(k.stamp.Ctime)} {
			records = binary.LittleEndian.AppendUint64(records, v)
		}
		records = append(records, k.age+1)
		records = append(records, k.digest[:]...)
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

// digested is a tree whose entries know the digests that are remembered.
type digested struct {
	layer.Tree
	d *digests
}

func (t digested) Lstat(path string) (*layer.Entry, error) {
	e, err := t.Tree.Lstat(path)
	if err == nil && e.Content != nil {
		e.Digest = t.d.lookup(e)
	}
	return e, err
}

func (t digested) ReadDir(path string) ([]*layer.Entry, error) {
	list, err := t.Tree.ReadDir(path)
	for _, e := range list {
		if e.Content != nil {
			e.Digest = t.d.lookup(e)
		}
	}
	return list, err
}
