package layer

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
)

const (
	aheadSize    = 128 << 10 // files up to this size, in bytes, are read ahead
	aheadEntries = 64        // entries in flight
)

// Ahead is a [Sink] before an indexed tar writer, and perhaps another sink: it opens, reads and digests small files
// on all cores, once for both, ahead of the writers, which take one entry after the other. Contents must be such that
// they can be opened after Add has returned.
//
// An entry's digest that is known is checked, unless the content is [Settled].
type Ahead struct {
	tw      *TarWriter
	writers []*aheadWriter
	load    chan *loaded
	done    sync.WaitGroup
	stop    sync.WaitGroup

	mu  sync.Mutex
	err error // the first one
}

// aheadWriter is a sink with the entries that wait for it.
type aheadWriter struct {
	sink  Sink
	queue chan *Entry
}

// NewAhead returns a sink that writes to tw, which Close closes, and to others, which it does not close.
func NewAhead(tw *TarWriter, others ...Sink) *Ahead {
	a := &Ahead{tw: tw, load: make(chan *loaded, aheadEntries)}
	for range runtime.GOMAXPROCS(0) {
		a.stop.Add(1)
		go func() {
			defer a.stop.Done()
			for l := range a.load {
				l.read()
			}
		}()
	}
	for _, sink := range append([]Sink{tw}, others...) {
		w := &aheadWriter{sink: sink, queue: make(chan *Entry, aheadEntries)}
		a.writers = append(a.writers, w)
		a.done.Add(1)
		go a.write(w)
	}
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
		c.loaded.users.Store(int32(len(a.writers)))
		c.Entry.Content = &c.loaded
		a.load <- &c.loaded
	}
	for _, w := range a.writers {
		w.queue <- &c.Entry
	}
	return nil
}

func (a *Ahead) failure() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.err
}

// write hands entries to a sink in their order. After an error it only drains.
func (a *Ahead) write(w *aheadWriter) {
	defer a.done.Done()
	for e := range w.queue {
		if a.failure() == nil {
			if err := w.sink.Add(e); err != nil {
				a.mu.Lock()
				if a.err == nil {
					a.err = err
				}
				a.mu.Unlock()
			}
		}
		if l, ok := e.Content.(*loaded); ok {
			l.release()
		}
	}
}

// Close waits for what is in flight and finishes the archive.
func (a *Ahead) Close() error {
	close(a.load)
	for _, w := range a.writers {
		close(w.queue)
	}
	a.done.Wait()
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
	users   atomic.Int32 // that have not released it

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
	began := time.Now()
	r, err := openRaw(l.content)
	if err != nil {
		l.err = err
		return
	}
	defer r.Close()
	l.buf = buffersFor(l.size).Get().(*[]byte)
	n, err := readSmall(r, (*l.buf)[:l.size+1])
	if err != nil {
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
	switch l.want {
	case l.sum:
	case "":
		remember(l.content, began, l.sum)
	default:
		l.err = fmt.Errorf("file changed while being read: its digest was %s and is %s now", l.want, l.sum)
	}
}

// readSmall reads a file that should have one byte less than b, and tells how many it has, or that it has more. A
// regular file gives all that it has at once: there is no need to ask for its end.
func readSmall(r io.Reader, b []byte) (n int, err error) {
	if f, ok := r.(fdReader); ok {
		if n, err = f.Read(b); err != nil && err != io.EOF || n == len(b)-1 {
			return n, err
		}
	}
	more, err := io.ReadFull(r, b[n:])
	if err == io.ErrUnexpectedEOF || err == io.EOF {
		err = nil
	}
	return n + more, err
}

// wait returns the content and its digest. The bytes are good until release.
func (l *loaded) wait() ([]byte, digest.Digest, error) {
	l.ready.Wait()
	if l.err != nil {
		return nil, "", l.err
	}
	return (*l.buf)[:l.size], l.sum, nil
}

// release ends the use of one of those who were handed it.
func (l *loaded) release() {
	if l.users.Add(-1) > 0 {
		return
	}
	if l.ready.Wait(); l.buf != nil {
		buffersFor(l.size).Put(l.buf)
		l.buf = nil
	}
}

// Open implements [Content].
func (l *loaded) Open() (io.ReadCloser, error) {
	data, _, err := l.wait()
	if err != nil {
		return nil, err
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}
