package rpmdb

import (
	"encoding/binary"
	"math/bits"
)

// A database of SQLite (https://www.sqlite.org/fileformat2.html; rpmdb.sqlite) has the packages in the second column of a table, a B-tree
// of pages whose root the schema names, itself a table in page 1. All numbers are big-endian.
const (
	sqliteMagic = "SQLite format 3\x00"
	sqliteTable = "Packages"

	sqliteInterior = 0x05
	sqliteLeaf     = 0x0d

	sqliteHead  = 100 // bytes before the first page's own
	sqliteDepth = 20
)

// sqlite is a database that is being read.
type sqlite struct {
	*file

	page, usable int64 // bytes of a page, and of them those that are not reserved
	wal          *file
	newer        map[uint32]int64 // pages -> where they are in the log
}

func readSQLite(f *file, wal File, tell func([]byte) error) error {
	head, err := f.at(0, 64)
	if err != nil {
		return err
	}
	db := &sqlite{file: f, page: int64(binary.BigEndian.Uint16(head[16:]))}
	if db.page == 1 {
		db.page = 64 << 10
	}
	db.usable = db.page - int64(head[20])
	if db.page < 512 || bits.OnesCount64(uint64(db.page)) != 1 || db.usable < 480 {
		return damaged("it has pages of %d bytes, of which %d are used", db.page, db.usable)
	}
	if err := db.readLog(wal); err != nil {
		return err
	}
	var root uint32
	err = db.rows(1, sqliteDepth, func(row []byte) error {
		columns, err := values(row)
		if err == nil && len(columns) > 3 && string(columns[0].data) == "table" && string(columns[1].data) == sqliteTable {
			root = uint32(columns[3].number())
		}
		return err
	})
	if err != nil {
		return err
	}
	if root == 0 {
		return damaged("it has no table %s", sqliteTable)
	}
	return db.rows(root, sqliteDepth, func(row []byte) error {
		columns, err := values(row)
		if err == nil && len(columns) < 2 {
			err = damaged("a package has %d columns", len(columns))
		}
		if err != nil {
			return err
		}
		return tell(columns[1].data)
	})
}

// pageAt is a page, with where its own begins.
func (db *sqlite) pageAt(number uint32) (page []byte, head int, err error) {
	if number == 0 {
		return nil, 0, damaged("there is no page 0")
	}
	if number == 1 {
		head = sqliteHead
	}
	if at, ok := db.newer[number]; ok {
		page, err = db.wal.at(at, db.page)
	} else {
		page, err = db.at(int64(number-1)*db.page, db.page)
	}
	return page, head, err
}

// rows tells the rows of a table, by the page of its root.
func (db *sqlite) rows(number uint32, depth int, fn func(row []byte) error) error {
	if depth == 0 {
		return damaged("a table is more than %d pages deep", sqliteDepth)
	}
	page, head, err := db.pageAt(number)
	if err != nil {
		return err
	}
	kind, n := page[head], int(binary.BigEndian.Uint16(page[head+3:]))
	cells := head + 8
	if kind == sqliteInterior {
		cells += 4
	}
	if kind != sqliteInterior && kind != sqliteLeaf || cells+2*n > len(page) {
		return damaged("page %d is none of a table", number)
	}
	for i := range n {
		at := int(binary.BigEndian.Uint16(page[cells+2*i:]))
		if at+4 > int(db.usable) {
			return damaged("an entry of page %d is at %d", number, at)
		}
		if kind == sqliteInterior {
			err = db.rows(binary.BigEndian.Uint32(page[at:]), depth-1, fn)
		} else {
			err = db.row(page[at:db.usable], fn)
		}
		if err != nil {
			return err
		}
	}
	if kind == sqliteInterior {
		return db.rows(binary.BigEndian.Uint32(page[head+8:]), depth-1, fn)
	}
	return nil
}

// row tells a row, whose entry begins a part of a page. What of it has no place there is in pages of its own.
func (db *sqlite) row(cell []byte, fn func(row []byte) error) error {
	size, n := varint(cell)
	_, m := varint(cell[n:])
	if n == 0 || m == 0 || size > maxHeader {
		return damaged("a row has %d bytes", size)
	}
	cell = cell[n+m:]
	local, most := int64(size), db.usable-35
	if local > most {
		least := (db.usable-12)*32/255 - 23
		if local = least + (int64(size)-least)%(db.usable-4); local > most {
			local = least
		}
	}
	rest := int64(size) - local
	if local > int64(len(cell)) || rest > 0 && local+4 > int64(len(cell)) {
		return damaged("a row of %d bytes has %d", size, len(cell))
	}
	if err := db.take(local); err != nil { // entries may lie in each other
		return err
	}
	row := cell[:local:local]
	if rest == 0 {
		return fn(row)
	}
	for next := binary.BigEndian.Uint32(cell[local:]); rest > 0; {
		page, _, err := db.pageAt(next)
		if err != nil {
			return err
		}
		part := min(rest, db.usable-4)
		row = append(row, page[4:4+part]...)
		rest -= part
		next = binary.BigEndian.Uint32(page)
	}
	return fn(row)
}

// value is one of a row: a number, a text, or bytes.
type value struct {
	data    []byte
	integer bool
}

// number is the integer that a value is, or 0.
func (v value) number() (n uint64) {
	if v.integer {
		for _, b := range v.data {
			n = n<<8 | uint64(b)
		}
	}
	return n
}

// maxColumns is how many there are of a row: no table of rpm has as many.
const maxColumns = 100

// sqliteSizes are bytes of values by their types; 8 and 9 are 0 and 1, and what follows are texts and bytes.
var sqliteSizes = [12]uint64{0, 1, 2, 3, 4, 6, 8, 8, 0, 0, 0, 0}

// values are those of a row.
func values(row []byte) (all []value, err error) {
	size, n := varint(row)
	if n == 0 || size < uint64(n) || size > uint64(len(row)) {
		return nil, damaged("a row of %d bytes has a head of %d", len(row), size)
	}
	types, data := row[n:size], row[size:]
	for len(types) > 0 && len(all) < maxColumns {
		kind, n := varint(types)
		if n == 0 {
			return nil, damaged("a type of a row is none")
		}
		types = types[n:]
		size := (max(kind, 12) - 12) / 2
		if kind < 12 {
			size = sqliteSizes[kind]
		}
		if size > uint64(len(data)) {
			return nil, damaged("a value of %d bytes has %d", size, len(data))
		}
		all = append(all, value{data[:size], kind <= 6})
		data = data[size:]
	}
	return all, nil
}

// varint reads a number of 1 to 9 bytes; n is 0 where there is none.
func varint(b []byte) (v uint64, n int) {
	for n < 8 && n < len(b) {
		v = v<<7 | uint64(b[n]&0x7f)
		if n++; b[n-1] < 0x80 {
			return v, n
		}
	}
	if n < len(b) {
		return v<<8 | uint64(b[n]), n + 1
	}
	return 0, 0
}

const (
	walHead  = 32
	walFrame = 24 // bytes before each page
)

// readLog finds the pages of a log that are newer than those of the database: of transactions that have ended, and since the log began
// anew, which a frame tells by the same salts as the log's.
func (db *sqlite) readLog(wal File) error {
	if wal.Size < walHead+walFrame {
		return nil
	}
	db.wal = &file{wal, again * wal.Size}
	head, err := db.wal.at(0, walHead)
	if err != nil {
		return err
	}
	if magic := binary.BigEndian.Uint32(head); magic&^1 != 0x377f0682 || int64(binary.BigEndian.Uint32(head[8:])) != db.page {
		return damaged("its log is none")
	}
	db.newer = map[uint32]int64{}
	begun := map[uint32]int64{}
	for at := int64(walHead); at+walFrame+db.page <= wal.Size; at += walFrame + db.page {
		frame, err := db.wal.at(at, walFrame)
		if err != nil {
			return err
		}
		if string(frame[8:16]) != string(head[16:24]) {
			break
		}
		begun[binary.BigEndian.Uint32(frame)] = at + walFrame
		if binary.BigEndian.Uint32(frame[4:]) == 0 { // the transaction goes on
			continue
		}
		for page, at := range begun {
			db.newer[page] = at
		}
		clear(begun)
	}
	return nil
}
