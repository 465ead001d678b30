package client

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/layer/digests"
	"github.com/slipway-build/slipway/internal/store"
)

// Kept has the contents of files that clients have sent, for all builds of a process. What one build was sent the next one is
// not sent again as long as the file has its size, time and mode.
type Kept struct {
	store *store.Store

	mu    sync.Mutex
	open  map[string]*slot
	hosts map[string]*host
}

// slot is where the contents are that go by one name.
type slot struct {
	refs int // guarded by Kept.mu

	mu       sync.Mutex
	contents *contents // nil: they are not open
	users    int
}

// NewKept returns what is kept in a store.
func NewKept(s *store.Store) *Kept {
	return &Kept{store: s, open: map[string]*slot{}, hosts: map[string]*host{}}
}

// take opens the contents with a name; with "" they are the caller's alone, and go with it.
func (k *Kept) take(name string) (_ *contents, release func() error, _ error) {
	if name == "" {
		c, err := newContents(k.store, "")
		return c, func() error { return c.close() }, err
	}
	k.mu.Lock()
	s := k.open[name]
	if s == nil {
		s = &slot{}
		k.open[name] = s
	}
	s.refs++
	k.mu.Unlock()
	leave := func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		if s.refs--; s.refs == 0 {
			delete(k.open, name)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.contents == nil {
		c, err := newContents(k.store, k.store.ContextFile(name))
		if err != nil {
			leave()
			return nil, nil, err
		}
		s.contents = c
	}
	s.users++
	return s.contents, func() (err error) {
		defer leave()
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.users--; s.users == 0 {
			err = s.contents.close()
			s.contents = nil
		}
		return err
	}, nil
}

// contents are what files of a context had, in one file, and what is known of these files.
//
// # Invariants
//
// Data first, record last: the file is on the disk before the file of digests says what is in it, which names it by its head.
// One process at a time writes to it, and has it locked. What an earlier one wrote is believed when it was compared with
// its digest.
type contents struct {
	memory *digests.Memory
	name   string // of the file of digests; "": nothing is remembered
	file   *os.File
	dir    string // that goes with the contents; "" for none
	head   digest.Digest
	before int64 // where in the file begins what this process writes

	mu  sync.Mutex
	end int64
}

// The contents' file begins with a magic line and a random number.
const (
	contentsMagic = "slipway files v1\n"
	contentsHead  = len(contentsMagic) + 15
	// blockSize is what contents of more than that begin at a multiple of, so that their space can be given back.
	blockSize = 4 << 10
	// maxContents is how far a file may reach, and still be used by the next build.
	maxContents = 1 << 43
)

// headStamp stands for the file itself in the digests: its head, and where its end was.
var headStamp layer.Stamp

// newContents opens what is kept beside a file of digests. When it cannot be had, as another process writes to it, the
// contents are the caller's alone.
func newContents(s *store.Store, name string) (*contents, error) {
	c := &contents{name: name}
	if name != "" {
		c.open(filepath.Dir(name))
	}
	if c.file != nil {
		return c, nil
	}
	dir, err := s.TempDir()
	if err != nil {
		return nil, err
	}
	c.name, c.dir, c.memory = "", dir, digests.Open("", dir)
	if c.file, err = os.OpenFile(filepath.Join(dir, "files"), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return c, nil
}

// open opens the file, if nobody else has it.
func (c *contents) open(tmp string) {
	if os.MkdirAll(tmp, 0o700) != nil {
		return
	}
	f, err := os.OpenFile(store.ContextContents(c.name), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return
	}
	if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil || !c.isThere(f) {
		f.Close()
		return
	}
	c.memory = digests.Open(c.name, tmp)
	if err := c.begin(f, tmp); err != nil {
		f.Close()
		return
	}
	c.file = f
}

// isThere reports whether a file is the regular one that is found by the contents' name: otherwise somebody pruned it.
func (c *contents) isThere(f *os.File) bool {
	open, err := f.Stat()
	there, lerr := os.Lstat(store.ContextContents(c.name))
	return err == nil && lerr == nil && open.Mode().IsRegular() && os.SameFile(open, there)
}

// begin finds the end of the file, and begins anew where it is not the one of the digests.
func (c *contents) begin(f *os.File, tmp string) error {
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	head := make([]byte, contentsHead)
	_, err = f.ReadAt(head, 0)
	sum, end, ok := c.memory.Find(headStamp)
	c.head = digest.FromBytes(head)
	if err == nil && ok && sum == c.head && bytes.HasPrefix(head, []byte(contentsMagic)) && fi.Size() >= end && fi.Size() < maxContents {
		c.before = upTo(fi.Size())
		c.end = c.before
		return nil
	}
	copy(head, contentsMagic)
	if _, err := rand.Read(head[len(contentsMagic):]); err != nil {
		return err
	}
	if err := f.Truncate(0); err != nil {
		return err
	}
	if _, err := f.WriteAt(head, 0); err != nil {
		return err
	}
	c.memory, c.head = digests.Open("", tmp), digest.FromBytes(head)
	c.end = int64(contentsHead)
	return nil
}

// upTo is the next beginning of a block.
func upTo(n int64) int64 { return (n + blockSize - 1) / blockSize * blockSize }

// place makes room for a content.
func (c *contents) place(size int64) (int64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	at := c.end
	if size > blockSize {
		at = upTo(at)
	}
	if size > 1<<62-at {
		return 0, fmt.Errorf("no room for %d bytes", size)
	}
	c.end = at + size
	return at, nil
}

// giveBack ends the use of a place, if nothing came after it.
func (c *contents) giveBack(at, size int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.end == at+size {
		c.end = at
	}
}

// stampOf is what a file of a context is known by.
func stampOf(e *layer.Entry) layer.Stamp {
	sum := sha256.Sum256([]byte(e.Path))
	return layer.Stamp{
		Dev: binary.LittleEndian.Uint64(sum[:]), Ino: binary.LittleEndian.Uint64(sum[8:]),
		Size: e.Size, Mtime: int64(e.Mode), Ctime: e.ModTime.UnixNano(),
	}
}

// coarse is the resolution of the time of files whose time has no fraction of a second: there are filesystems that count
// pairs of seconds.
const coarse = 2 * time.Second

// note remembers a content that was read after a point in time. A file that may have changed since then, and have the same
// time, is forgotten with the process, as for directories of this machine. (The clocks of client and server are believed to
// agree, as far as that goes.)
func (c *contents) note(s layer.Stamp, read time.Time, sum digest.Digest, at int64) {
	if s.Ctime%int64(time.Second) == 0 {
		read = read.Add(-coarse)
	}
	c.memory.NotePlace(s, read, sum, at)
}

// find tells what a file had, and where that is.
func (c *contents) find(s layer.Stamp) (sum digest.Digest, at int64, ok bool) {
	sum, at, ok = c.memory.Find(s)
	return sum, at, ok
}

// errDamaged says that a content is not what it was.
var errDamaged = errors.New("what was kept of the file is damaged")

// reader gives a content. What an earlier process wrote is compared with its digest first.
func (c *contents) reader(at, size int64, sum digest.Digest) (io.ReadCloser, error) {
	if at < c.before {
		h := sha256.New()
		buf := hashBuffers.Get().(*[]byte)
		defer hashBuffers.Put(buf)
		n, err := io.CopyBuffer(struct{ io.Writer }{h}, struct{ io.Reader }{io.NewSectionReader(c.file, at, size)}, *buf)
		if err != nil || n != size || digest.NewDigest(digest.SHA256, h) != sum {
			return nil, errDamaged
		}
	}
	return io.NopCloser(io.NewSectionReader(c.file, at, size)), nil
}

var hashBuffers = sync.Pool{New: func() any { b := make([]byte, 64<<10); return &b }}

func newHash() hash.Hash { return sha256.New() }

// close keeps what a later process may use, and gives back the space of the rest.
func (c *contents) close() error {
	var err error
	if c.name != "" && c.isThere(c.file) {
		err = c.save()
	}
	err = errors.Join(err, c.file.Close())
	if c.dir != "" {
		err = errors.Join(err, os.RemoveAll(c.dir))
	}
	if err != nil {
		err = fmt.Errorf("keeping the files of the client's context: %w", err)
	}
	return err
}

func (c *contents) save() error {
	if c.end == c.before {
		return c.memory.SaveTo(c.name) // there is nothing new but digests, if that
	}
	if c.end >= maxContents { // by sizes that somebody claimed
		return errors.Join(os.Remove(store.ContextContents(c.name)), removeIfThere(c.name))
	}
	if err := c.file.Truncate(c.end); err != nil { // the last of them may not have come
		return err
	}
	if err := unix.Fdatasync(int(c.file.Fd())); err != nil {
		return os.NewSyscallError("fdatasync", err)
	}
	c.memory.NotePlace(headStamp, time.Now(), c.head, c.end)
	if err := c.memory.SaveTo(c.name); err != nil {
		return err
	}
	return c.giveSpaceBack()
}

func removeIfThere(name string) error {
	if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// giveSpaceBack makes holes of what no record leads to any more.
func (c *contents) giveSpaceBack() error {
	type part struct{ from, to int64 }
	var used []part
	saved := digests.Open(c.name, filepath.Dir(c.name))
	if err := saved.Each(func(s layer.Stamp, at int64) {
		if s != headStamp {
			used = append(used, part{at, at + s.Size})
		}
	}); err != nil {
		return err
	}
	slices.SortFunc(used, func(a, b part) int { return int(min(max(a.from-b.from, -1), 1)) })
	at := upTo(int64(contentsHead))
	for _, p := range append(used, part{from: c.end / blockSize * blockSize}) {
		if n := p.from/blockSize*blockSize - at; n > 0 {
			err := unix.Fallocate(int(c.file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, at, n)
			if errors.Is(err, unix.EOPNOTSUPP) {
				return nil
			}
			if err != nil {
				return os.NewSyscallError("fallocate", err)
			}
		}
		at = max(at, upTo(p.to))
	}
	return nil
}
