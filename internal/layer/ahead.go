package layer

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"runtime"
	"sync"

	"github.com/opencontainers/go-digest"
)

const (
	aheadSize    = 128 << 10 // files up to this size, in bytes, are read ahead
	aheadEntries = 64        // entries in flight
)

// Ahead is a [Sink] before an indexed tar writer: it opens, reads and digests small files on all
// cores, ahead of the writer, which takes one entry after the other. Contents must be such that
// they can be opened after Add has returned.
//
// An entry's digest that is known is checked, unless the content is [Settled].
type Ahead struct {
	tw    *TarWriter
	queue chan *Entry
	load  chan *loaded
	done  chan struct{}
	stop  sync.WaitGroup

	mu  sync.Mutex
	err error // the first one
}

// NewAhead returns a sink that writes to tw, which Close closes.
func NewAhead(tw *TarWriter) *Ahead {
	a := &Ahead{tw: tw, queue: make(chan *Entry, aheadEntries), load: make(chan *loaded, aheadEntries), done: make(chan struct{})}
	for range runtime.GOMAXPROCS(0) {
		a.stop.Add(1)
		go func() {
			defer a.stop.Done()
			for l := range a.load {
				l.read()
			}
		}()
	}
	go a.write()
	return a
}

// Add takes an entry. An error may be that of an earlier one.
func (a *Ahead) Add(e *Entry) error {
	if err := a.failure(); err != nil {
		return err
	}
	c := &struct {
		Entry
		loaded
	}{Entry: *e}
	if e.Content != nil && e.Size <= aheadSize {
		c.loaded.content, c.loaded.size, c.loaded.want = e.Content, e.Size, e.Digest
		c.loaded.ready.Add(1)
		c.Entry.Content = &c.loaded
		a.load <- &c.loaded
	}
	a.queue <- &c.Entry
	return nil
}

func (a *Ahead) failure() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.err
}

// write hands entries to the writer in their order. After an error it only drains.
func (a *Ahead) write() {
	defer close(a.done)
	for e := range a.queue {
		if a.failure() != nil {
			continue
		}
		if err := a.tw.Add(e); err != nil {
			a.mu.Lock()
			a.err = err
			a.mu.Unlock()
		}
	}
}

// Close waits for what is in flight and finishes the archive.
func (a *Ahead) Close() error {
	close(a.load)
	close(a.queue)
	<-a.done
	a.stop.Wait()
	if err := a.failure(); err != nil {
		return err
	}
	return a.tw.Close()
}

// loaded is a small content in memory.
type loaded struct {
	content Content
	size    int64
	want    digest.Digest

	ready sync.WaitGroup // for the following
	buf   *[]byte
	sum   digest.Digest
	err   error
}

// Most files are small, and many are in memory at once.
const aheadSmall = 8 << 10

var (
	aheadBuffers      = sync.Pool{New: func() any { b := make([]byte, aheadSize+1); return &b }}
	aheadSmallBuffers = sync.Pool{New: func() any { b := make([]byte, aheadSmall); return &b }}
)

// buffersFor gives the buffers for a file of a size, and one byte more.
func buffersFor(size int64) *sync.Pool {
	if size < aheadSmall {
		return &aheadSmallBuffers
	}
	return &aheadBuffers
}

func (l *loaded) read() {
	defer l.ready.Done()
	r, err := openRaw(l.content)
	if err != nil {
		l.err = err
		return
	}
	defer r.Close()
	l.buf = buffersFor(l.size).Get().(*[]byte)
	n, err := io.ReadFull(r, (*l.buf)[:l.size+1]) // one more than there should be
	if err != nil && err != io.ErrUnexpectedEOF && err != io.EOF {
		l.err = err
		return
	}
	if int64(n) != l.size {
		l.err = fmt.Errorf("file changed while being read: got %d bytes or more, want %d", n, l.size)
		return
	}
	if l.want != "" && Settled(l.content) {
		l.sum, l.err = l.want, unchanged(l.content, r)
		return
	}
	sum := sha256.Sum256((*l.buf)[:n])
	l.sum = SHA256Digest(sum[:])
	if l.want != "" && l.want != l.sum {
		l.err = fmt.Errorf("file changed while being read: its digest was %s and is %s now", l.want, l.sum)
	}
}

// wait returns the content and its digest. The bytes are good until release.
func (l *loaded) wait() ([]byte, digest.Digest, error) {
	l.ready.Wait()
	if l.err != nil {
		return nil, "", l.err
	}
	return (*l.buf)[:l.size], l.sum, nil
}

func (l *loaded) release() {
	buffersFor(l.size).Put(l.buf)
	l.buf = nil
}

// Open implements [Content].
func (l *loaded) Open() (io.ReadCloser, error) {
	data, _, err := l.wait()
	if err != nil {
		return nil, err
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}
