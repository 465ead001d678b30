package rpmdb

import "encoding/binary"

// A database of ndb (rpm's lib/backend/ndb/rpmpkg.c, Packages.db) has pages with slots, the first two of which are its header, and then
// the packages, in blocks. A slot has the number of a package, 0 for none, and its first block. All numbers are little-endian.
const (
	ndbMagic = "RpmP"
	ndbSlot  = "Slot"
	ndbBlob  = "BlbS"

	ndbPage  = 4096
	ndbBlock = 16 // bytes of a slot, a block, and the head of a package
)

func readNDB(f *file, tell func([]byte) error) error {
	head, err := f.at(0, 2*ndbBlock)
	if err != nil {
		return err
	}
	if version := binary.LittleEndian.Uint32(head[4:]); version != 0 {
		return damaged("it is of the version %d of ndb", version)
	}
	pages := int64(binary.LittleEndian.Uint32(head[12:]))
	for at := int64(0); at < pages*ndbPage; at += ndbPage {
		page, err := f.at(at, ndbPage)
		if err != nil {
			return err
		}
		if at == 0 {
			page = page[2*ndbBlock:]
		}
		for ; len(page) > 0; page = page[ndbBlock:] {
			number, block := binary.LittleEndian.Uint32(page[4:]), int64(binary.LittleEndian.Uint32(page[8:]))
			if string(page[:4]) != ndbSlot {
				return damaged("a slot of it is none")
			}
			if number == 0 {
				continue
			}
			header, err := ndbPackage(f, number, block*ndbBlock)
			if err == nil {
				err = tell(header)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// ndbPackage is the header of a package.
func ndbPackage(f *file, number uint32, at int64) ([]byte, error) {
	head, err := f.at(at, ndbBlock)
	if err != nil {
		return nil, err
	}
	size := int64(binary.LittleEndian.Uint32(head[12:]))
	if string(head[:4]) != ndbBlob || binary.LittleEndian.Uint32(head[4:]) != number || size > maxHeader {
		return nil, damaged("package %d is not where it should be", number)
	}
	return f.at(at+ndbBlock, size)
}
