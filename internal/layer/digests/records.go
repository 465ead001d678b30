package digests

import (
	"fmt"
	"os"
	"sync/atomic"

	"github.com/slipway-build/slipway/internal/layer"
)

// A page is what is read of, or written to, a file of records at once.
const (
	pageRecords = 202 // 16 KiB
	pageSize    = pageRecords * recordSize
	maxPages    = 256 // of a file that are in memory
)

// records are numbered records of a file, of which some pages are in memory: as long as these are few, all of them.
// Reading is safe for concurrent use; adding is not, nor while others read.
type records struct {
	f     *os.File // may be nil as long as all pages are in memory
	start int64    // of the first record in f
	n     int

	pages  []*atomic.Pointer[[]byte]
	stored []bool // of pages that were added: they are in f
	stuck  bool   // no more pages can be put there
	loaded atomic.Int64
	hand   atomic.Int64 // the page that makes room next
}

// openRecords gives the n records of a file that begin at a place of it.
func openRecords(f *os.File, start int64, n int) *records {
	r := &records{f: f, start: start, n: n, pages: make([]*atomic.Pointer[[]byte], (n+pageRecords-1)/pageRecords)}
	for i := range r.pages {
		r.pages[i] = &atomic.Pointer[[]byte]{}
	}
	return r
}

// at gives the bytes of a record. They must not be changed.
func (r *records) at(i int) ([]byte, error) {
	p, err := r.page(i / pageRecords)
	if err != nil {
		return nil, err
	}
	at := i % pageRecords * recordSize
	return p[at : at+recordSize], nil
}

// read copies a record, for one who asks in no order: no page is read for it.
func (r *records) read(b []byte, i int) error {
	if p := r.pages[i/pageRecords].Load(); p != nil {
		copy(b, (*p)[i%pageRecords*recordSize:])
		return nil
	}
	if _, err := r.f.ReadAt(b[:recordSize], r.start+int64(i)*recordSize); err != nil {
		return fmt.Errorf("reading digests: %w", err)
	}
	return nil
}

func (r *records) page(i int) ([]byte, error) {
	if p := r.pages[i].Load(); p != nil {
		return *p, nil
	}
	b := make([]byte, min(pageSize, (r.n-i*pageRecords)*recordSize))
	if _, err := r.f.ReadAt(b, r.start+int64(i)*pageSize); err != nil {
		return nil, fmt.Errorf("reading digests: %w", err)
	}
	if r.pages[i].CompareAndSwap(nil, &b) && r.loaded.Add(1) > maxPages {
		r.drop()
	}
	return b, nil
}

// drop takes one of the pages that are in the file out of memory.
func (r *records) drop() {
	for range r.pages {
		i := int(r.hand.Add(1) % int64(len(r.pages)))
		if i < len(r.stored) && !r.stored[i] {
			continue
		}
		if r.pages[i].Swap(nil) != nil {
			r.loaded.Add(-1)
			return
		}
	}
}

// add appends a record. Pages that there is no room for are written to a file in a directory; where that cannot be,
// they stay.
func (r *records) add(rec []byte, dir string) {
	if r.n%pageRecords == 0 {
		if r.loaded.Add(1) > maxPages && !r.stuck {
			r.stuck = r.store(dir) != nil
		}
		b, p := make([]byte, pageSize), &atomic.Pointer[[]byte]{}
		p.Store(&b)
		r.pages, r.stored = append(r.pages, p), append(r.stored, false)
	}
	last := *r.pages[len(r.pages)-1].Load()
	copy(last[r.n%pageRecords*recordSize:], rec)
	r.n++
}

// store writes all pages to the file, and drops one.
func (r *records) store(dir string) (err error) {
	if r.f == nil {
		if r.f, err = layer.TempFile(dir); err != nil {
			return err
		}
	}
	for i, stored := range r.stored {
		if stored {
			continue
		}
		if _, err := r.f.WriteAt(*r.pages[i].Load(), r.start+int64(i)*pageSize); err != nil {
			return err
		}
		r.stored[i] = true
	}
	r.drop()
	return nil
}
