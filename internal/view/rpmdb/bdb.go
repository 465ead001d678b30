package rpmdb

import "encoding/binary"

// A database of Berkeley DB (its src/dbinc/db_page.h; Packages) is a hash: pages with pairs of a key and a value, which are short, or
// lead to pages of their own. Numbers have the byte order of the machine that wrote them.
const (
	bdbHashMagic = 0x061561

	bdbHead = 26 // bytes of a page's head

	bdbTypeUnsorted = 2 // of the time before version 4.6
	bdbTypeOverflow = 7
	bdbTypeHash     = 13

	bdbItemInline  = 1
	bdbItemOffPage = 3
)

// bdb is a database that is being read.
type bdb struct {
	*file
	binary.ByteOrder

	page int64 // bytes of one
}

func readBDB(f *file, order binary.ByteOrder, tell func([]byte) error) error {
	head, err := f.at(0, 64)
	if err != nil {
		return err
	}
	db := &bdb{f, order, int64(order.Uint32(head[20:]))}
	if db.page < 512 || db.page > 64<<10 || db.page&(db.page-1) != 0 || head[24] != 0 {
		return damaged("it has pages of %d bytes, or is encrypted", db.page)
	}
	for at := db.page; at+db.page <= f.Size; at += db.page {
		page, err := f.at(at, db.page)
		if err != nil {
			return err
		}
		if kind := page[25]; kind != bdbTypeHash && kind != bdbTypeUnsorted {
			continue
		}
		if err := db.pairs(page, tell); err != nil {
			return err
		}
	}
	return nil
}

// pairs tells the values of a page.
func (db *bdb) pairs(page []byte, tell func([]byte) error) error {
	n := int(db.Uint16(page[20:]))
	if bdbHead+2*n > len(page) {
		return damaged("a page of %d bytes has %d entries", len(page), n)
	}
	place := func(i int) int { return int(db.Uint16(page[bdbHead+2*i:])) }
	for i := 1; i < n; i += 2 { // keys are before them
		at, end := place(i), place(i-1) // they are written from the end of the page on
		if at >= len(page) || end > len(page) || at >= end {
			return damaged("an entry of a page of %d bytes is at %d", len(page), at)
		}
		item := page[at:end]
		switch {
		case item[0] == bdbItemInline && len(item) > 1+8: // the number of the next package is one of 4 bytes
			if err := tell(item[1:]); err != nil {
				return err
			}
		case item[0] == bdbItemOffPage && len(item) >= 12:
			value, err := db.value(int64(db.Uint32(item[4:])), int64(db.Uint32(item[8:])))
			if err == nil {
				err = tell(value)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// value puts together a value of pages of its own.
func (db *bdb) value(number, size int64) ([]byte, error) {
	if size > maxHeader {
		return nil, damaged("a package has %d bytes", size)
	}
	var value []byte
	for int64(len(value)) < size {
		page, err := db.at(number*db.page, db.page)
		if err != nil {
			return nil, err
		}
		n := int(db.Uint16(page[22:]))
		if page[25] != bdbTypeOverflow || n == 0 || bdbHead+n > len(page) {
			return nil, damaged("page %d is none of a value", number)
		}
		value = append(value, page[bdbHead:bdbHead+n]...)
		number = int64(db.Uint32(page[16:]))
	}
	return value[:size], nil
}
