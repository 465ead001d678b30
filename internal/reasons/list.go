package reasons

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"slices"
	"strings"
	"sync"
)

// A List is of the files that a step reads: their names, and codes of their contents and attributes. It is a tree of two levels, as two
// lists are compared by what differs in them: a piece ends at some names, whatever else is in the list, so a change leaves all other
// pieces as they were, however the files lie in directories. Pieces are named by their content, and records of builds share them.
//
// A piece is a sequence of entries: how many bytes of the name before it the name begins with, how many more there are, those,
// [contentCode] bytes of the content's digest and four of a checksum of the attributes. The name of a directory ends with "/".
type List struct {
	Files  int      `json:"files"` // how many there are, without directories
	Pieces []string `json:"pieces,omitempty"`
	Data   []byte   `json:"data,omitempty"` // of a short list, the only piece

	// Read gives a piece; nil: of a list with Data, or with nothing.
	Read func(piece string) ([]byte, error) `json:"-"`
}

// contentCode is how many bytes of a digest are kept: two contents that an explanation takes for one do no harm.
const contentCode = 6

// How many entries a piece has: it ends at the first name after the least whose checksum ends with the bits of end, or at the most.
const (
	leastEntries = 1 << 10
	endMask      = 1<<12 - 1
	mostEntries  = 1 << 14
)

// maxInline is how long the only piece may be that stands in the list itself. maxPiece is what is read of one.
const (
	maxInline = 16 << 10
	maxPiece  = 256 << 20
)

var castagnoli = sync.OnceValue(func() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) })

// maxHeld is how many bytes of pieces are in memory before the next ones go to a file.
const maxHeld = 256 << 10

// ListMaker makes a list.
type ListMaker struct {
	// Spill makes the file in which most of a large list is until somebody wants it; nil: it is in memory.
	Spill func() (*os.File, error)

	files, entries int
	piece          []byte
	last           string
	name           []byte // the same, for its checksum
	names          []string
	pieces         map[string]part
	held           int // bytes in memory
	file           *os.File
	size           int64 // of the file
	err            error
}

// part is a piece of a list in the making: in memory, or in the file.
type part struct {
	data   []byte
	at     int64
	length int
}

// Add adds an entry. content is that of a file as hexadecimal digits, nil for all else; attributes are everything else that counts.
func (m *ListMaker) Add(name string, directory bool, content, attributes []byte) {
	if directory {
		name += "/"
	} else {
		m.files++
	}
	shared := 0
	for most := min(len(name), len(m.last)); shared < most && name[shared] == m.last[shared]; shared++ {
	}
	b := binary.AppendUvarint(m.piece, uint64(shared))
	b = binary.AppendUvarint(b, uint64(len(name)-shared))
	b = append(b, name[shared:]...)
	var code [contentCode]byte
	if len(content) >= 2*contentCode {
		_, _ = hex.Decode(code[:], content[:2*contentCode])
	}
	b = append(b, code[:]...)
	m.piece = binary.LittleEndian.AppendUint32(b, crc32.Checksum(attributes, castagnoli()))
	m.last = name
	m.entries++
	m.name = append(m.name[:0], name...)
	if m.entries >= mostEntries || m.entries >= leastEntries && crc32.Checksum(m.name, castagnoli())&endMask == 0 {
		m.cut()
	}
}

// cut ends a piece.
func (m *ListMaker) cut() {
	if m.pieces == nil {
		m.pieces = map[string]part{}
	}
	name := PieceName(m.piece)
	m.names = append(m.names, name)
	m.last, m.entries = "", 0
	if m.held > maxHeld && m.Spill != nil {
		m.spill(name)
		return
	}
	m.held += len(m.piece)
	m.pieces[name] = part{data: slices.Clone(m.piece)}
	m.piece = m.piece[:0]
}

// spill puts a piece into the file.
func (m *ListMaker) spill(name string) {
	if m.file == nil && m.err == nil {
		m.file, m.err = m.Spill()
	}
	if m.err == nil {
		_, m.err = m.file.WriteAt(m.piece, m.size)
	}
	m.pieces[name] = part{at: m.size, length: len(m.piece)}
	m.size += int64(len(m.piece))
	m.piece = m.piece[:0]
}

// List is what was added; nil where it could not be kept.
func (m *ListMaker) List() *List {
	l := &List{Files: m.files}
	if len(m.names) == 0 && len(m.piece) <= maxInline {
		l.Data = m.piece
		return l
	}
	if m.entries > 0 {
		m.cut()
	}
	if m.err != nil {
		return nil
	}
	pieces, file := m.pieces, m.file
	l.Pieces, l.Read = m.names, func(name string) ([]byte, error) {
		p, ok := pieces[name]
		if !ok {
			return nil, ErrNoPiece
		}
		if p.length == 0 {
			return p.data, nil
		}
		data := make([]byte, p.length)
		_, err := file.ReadAt(data, p.at)
		return data, err
	}
	return l
}

// PieceName is the name of a piece, by its content.
func PieceName(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:12])
}

// IsPiece reports whether a name may be that of a piece.
func IsPiece(name string) bool {
	data, err := hex.DecodeString(name)
	return err == nil && len(data) == 12
}

var (
	errDamaged = errors.New("the list is damaged")
	errTooMany = errors.New("more differs than is compared")
)

// maxCompared is how many entries of pieces that differ are compared, of each list.
const maxCompared = 1 << 19

// fileCode is what is known of a file.
type fileCode struct {
	content    [contentCode]byte
	attributes uint32
}

// decode adds the entries of a piece.
func decode(data []byte, to map[string]fileCode) error {
	last := ""
	for len(data) > 0 {
		shared, n := binary.Uvarint(data)
		if n <= 0 || shared > uint64(len(last)) {
			return errDamaged
		}
		data = data[n:]
		more, n := binary.Uvarint(data)
		if n <= 0 || more > uint64(len(data)-n) || uint64(len(data)-n)-more < contentCode+4 {
			return errDamaged
		}
		data = data[n:]
		name := last[:shared] + string(data[:more])
		data = data[more:]
		var c fileCode
		copy(c.content[:], data)
		c.attributes = binary.LittleEndian.Uint32(data[contentCode:])
		data = data[contentCode+4:]
		to[name], last = c, name
	}
	return nil
}

// all gives the pieces by their names.
func (l *List) all() []string {
	if len(l.Data) > 0 {
		return []string{PieceName(l.Data)}
	}
	return l.Pieces
}

// entries gives those of the pieces that another list does not have.
func (l *List) entries(other *List) (map[string]fileCode, error) {
	has := map[string]bool{}
	for _, p := range other.all() {
		has[p] = true
	}
	all := map[string]fileCode{}
	for _, p := range l.all() {
		data := l.Data
		if has[p] {
			continue
		}
		if len(l.Data) == 0 {
			if l.Read == nil {
				return nil, ErrNoPiece
			}
			var err error
			if data, err = l.Read(p); err != nil {
				return nil, err
			}
			if PieceName(data) != p {
				return nil, errDamaged
			}
		}
		if err := decode(data, all); err != nil {
			return nil, err
		}
		if len(all) > maxCompared {
			return nil, errTooMany
		}
	}
	return all, nil
}

// DiffFiles compares lists. Only pieces that differ are read. Directories count where nothing else differs.
func DiffFiles(before, after *List) (*FileDiff, error) {
	was, err := before.entries(after)
	if err != nil {
		return nil, fmt.Errorf("reading the files of before: %w", err)
	}
	is, err := after.entries(before)
	if err != nil {
		return nil, fmt.Errorf("reading the files of now: %w", err)
	}
	d := &FileDiff{Total: after.Files}
	d.compare(was, is, false)
	if len(d.Names) == 0 {
		d.compare(was, is, true)
	}
	return d, nil
}

// compare counts what differs: files, or directories.
func (d *FileDiff) compare(was, is map[string]fileCode, directories bool) {
	var changed, added, removed []FileChange
	note := func(list *[]FileChange, n *int, name, change string) {
		if strings.HasSuffix(name, "/") == directories {
			*n++
			*list = append(*list, FileChange{name, change})
		}
	}
	for name, code := range is {
		old, there := was[name]
		switch {
		case !there:
			note(&added, &d.Added, name, "added")
		case old.content != code.content || directories:
			if old != code {
				note(&changed, &d.Changed, name, "changed")
			}
		case old.attributes != code.attributes:
			note(&changed, &d.Changed, name, attributesOf(code))
		}
	}
	for name := range was {
		if _, there := is[name]; !there {
			note(&removed, &d.Removed, name, "removed")
		}
	}
	for _, list := range [][]FileChange{changed, added, removed} {
		slices.SortFunc(list, func(a, b FileChange) int { return strings.Compare(a.Path, b.Path) })
		d.Names = append(d.Names, list[:min(len(list), MaxNames-len(d.Names))]...)
	}
}

// attributesOf is the change of a file whose content did not: a link has none, its target is an attribute.
func attributesOf(c fileCode) string {
	if c.content == [contentCode]byte{} {
		return "changed"
	}
	return "attributes"
}
