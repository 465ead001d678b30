package rpmdb

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// fixture is a database that rpm has written (testdata/make.sh), without its compression.
func fixture(t testing.TB, name string) []byte {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", name+".gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	zip, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(zip)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func fileOf(data []byte) File { return File{bytes.NewReader(data), int64(len(data))} }

// read gives the packages of a database as lines, sorted.
func read(main, wal []byte) ([]string, error) {
	var all []string
	err := Read(fileOf(main), fileOf(wal), func(p Package) {
		all = append(all, strings.TrimSpace(fmt.Sprintf("%s %s %d %s", p.Name, p.Version, p.Size, p.Arch)))
	})
	slices.Sort(all)
	return all, err
}

// What rpm says is installed, by each of its kinds of databases.
func TestRead(t *testing.T) {
	list, err := os.ReadFile("testdata/packages")
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Split(strings.TrimSpace(string(list)), "\n")
	for _, kind := range []string{"sqlite", "ndb", "bdb", "bdb-big-endian"} {
		if got, err := read(fixture(t, kind), nil); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s has\n%s, %v, want\n%s", kind, strings.Join(got, "\n"), err, list)
		}
	}
	// What is in the log alone counts, and what is left in it of the time before does not.
	main, wal := fixture(t, "sqlite-wal-main"), fixture(t, "sqlite-wal")
	if got, err := read(main, wal); err != nil || !slices.Equal(got, want) {
		t.Errorf("with a log it has\n%s, %v", strings.Join(got, "\n"), err)
	}
	if got, err := read(main, nil); err != nil || len(got) >= len(want) {
		t.Errorf("without its log it has\n%s, %v", strings.Join(got, "\n"), err)
	}
	wal[17]++ // of another log
	if got, err := read(main, wal); err != nil || len(got) >= len(want) {
		t.Errorf("with a log that began anew it has\n%s, %v", strings.Join(got, "\n"), err)
	}
}

// A database that is damaged, or made for it, is an error or has other packages: reading it ends, and soon.
func TestDamaged(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for _, kind := range []string{"sqlite", "ndb", "bdb"} {
		whole := fixture(t, kind)
		for i := range 400 {
			data := slices.Clone(whole)
			for range 1 + i%8 {
				data[random.IntN(len(data))] = byte(random.Uint32())
			}
			if i%4 == 0 {
				data = data[:random.IntN(len(data))]
			}
			if _, err := read(data, nil); err != nil && !errors.Is(err, ErrDamaged) {
				t.Errorf("%s: %v", kind, err)
			}
		}
	}
	for name, data := range map[string][]byte{
		"nothing": nil, "short": []byte("RpmP"), "text": bytes.Repeat([]byte("text"), 100),
		"a page that leads to itself": sqliteCircle(), "a value that leads to itself": bdbCircle(), "slots without end": ndbSlots(),
		"a row in reserved bytes": sqliteReserved(),
	} {
		if got, err := read(data, nil); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s has %d packages, %v", name, len(got), err)
		}
	}
}

// A page may be read out of once more than it has bytes, and not by each of its entries.
func TestSameRow(t *testing.T) {
	if _, err := read(sqliteSameRow(), nil); err == nil || !strings.Contains(err.Error(), "lead to each other") {
		t.Errorf("got %v", err)
	}
}

// sqliteCircle has a page of a tree with a hundred ways to itself.
func sqliteCircle() []byte {
	data := make([]byte, 4096)
	copy(data, sqliteMagic)
	binary.BigEndian.PutUint16(data[16:], 4096)
	data[100] = sqliteInterior
	binary.BigEndian.PutUint16(data[103:], 100)
	binary.BigEndian.PutUint32(data[108:], 1)
	for i := range 100 {
		binary.BigEndian.PutUint16(data[112+2*i:], 4000)
	}
	binary.BigEndian.PutUint32(data[4000:], 1)
	return data
}

// bdbCircle has a value of 32 MB whose only page comes after itself.
func bdbCircle() []byte {
	data := make([]byte, 3*512)
	le := binary.LittleEndian
	le.PutUint32(data[12:], bdbHashMagic)
	le.PutUint32(data[20:], 512)
	page := data[512:]
	page[25] = bdbTypeHash
	le.PutUint16(page[20:], 2)
	le.PutUint16(page[26:], 500)
	le.PutUint16(page[28:], 480)
	page[480] = bdbItemOffPage
	le.PutUint32(page[484:], 2)
	le.PutUint32(page[488:], maxHeader)
	value := data[1024:]
	value[25] = bdbTypeOverflow
	le.PutUint16(value[22:], 400)
	le.PutUint32(value[16:], 2)
	return data
}

// sqliteReserved has a row in the bytes of a page that are reserved.
func sqliteReserved() []byte {
	data := make([]byte, 512)
	copy(data, sqliteMagic)
	binary.BigEndian.PutUint16(data[16:], 512)
	data[20] = 32
	data[100] = sqliteLeaf
	binary.BigEndian.PutUint16(data[103:], 1)
	binary.BigEndian.PutUint16(data[108:], 500)
	return data
}

// sqliteSameRow has a table of which each page has thousands of entries that are one row.
func sqliteSameRow() []byte {
	const size = 32 << 10
	data := make([]byte, 64*size)
	copy(data, sqliteMagic)
	binary.BigEndian.PutUint16(data[16:], size)
	row := append([]byte{0xbf, 0x00, 1, 4, 0, 0, 0}, make([]byte, 8000)...)
	interior := data[100:]
	interior[0] = sqliteInterior
	binary.BigEndian.PutUint16(interior[3:], 62)
	binary.BigEndian.PutUint32(interior[8:], 2)
	for i := range 62 {
		binary.BigEndian.PutUint16(interior[12+2*i:], uint16(1000+4*i))
		binary.BigEndian.PutUint32(data[1000+4*i:], uint32(3+i))
	}
	for page := 1; page < 64; page++ {
		leaf := data[page*size:]
		leaf[0] = sqliteLeaf
		binary.BigEndian.PutUint16(leaf[3:], 12000)
		for i := range 12000 {
			binary.BigEndian.PutUint16(leaf[8+2*i:], 24100)
		}
		copy(leaf[24100:], row)
	}
	return data
}

// ndbSlots says of itself that it has 16 TB of slots, all of which are of one package.
func ndbSlots() []byte {
	data := make([]byte, 8192)
	le := binary.LittleEndian
	for at := 32; at+16 <= len(data); at += 16 {
		copy(data[at:], ndbSlot)
		le.PutUint32(data[at+4:], 7)
		le.PutUint32(data[at+8:], 256)
	}
	copy(data, ndbMagic)
	le.PutUint32(data[12:], 1<<32-1)
	copy(data[4096:], ndbBlob)
	le.PutUint32(data[4100:], 7)
	le.PutUint32(data[4108:], 4000)
	le.PutUint32(data[4112:], 0)
	le.PutUint32(data[4116:], 0)
	return data
}

// header is that of a package with a name and a version, and nothing else.
func header(name, version string) []byte {
	data := name + "\x00" + version + "\x00"
	h := binary.BigEndian.AppendUint32(nil, 2)
	h = binary.BigEndian.AppendUint32(h, uint32(len(data)))
	for _, n := range []uint32{tagName, typeString, 0, 1, tagVersion, typeString, uint32(len(name)) + 1, 1} {
		h = binary.BigEndian.AppendUint32(h, n)
	}
	return append(h, data...)
}

// ndbSmall and bdbSmall are what a fuzzer finds its way through.
func ndbSmall() []byte {
	le := binary.LittleEndian
	h := header("small", "1")
	data := make([]byte, 4096, 8192)
	for at := 32; at < 4096; at += 16 {
		copy(data[at:], ndbSlot)
	}
	copy(data, ndbMagic)
	le.PutUint32(data[12:], 1)
	le.PutUint32(data[36:], 1)
	le.PutUint32(data[40:], 256)
	data = append(data, ndbBlob...)
	data = le.AppendUint32(data, 1)
	data = le.AppendUint32(data, 0)
	data = le.AppendUint32(data, uint32(len(h)))
	return append(data, h...)
}

func bdbSmall() []byte {
	le := binary.LittleEndian
	data := make([]byte, 4*512)
	le.PutUint32(data[12:], bdbHashMagic)
	le.PutUint32(data[20:], 512)
	short, long := header("small", "1"), header(strings.Repeat("long", 150), "2")
	page := data[512:1024]
	page[25] = bdbTypeHash
	le.PutUint16(page[20:], 4)
	end := 512
	for i, item := range [][]byte{{bdbItemInline, 1, 0, 0, 0}, append([]byte{bdbItemInline}, short...), {bdbItemInline, 2, 0, 0, 0}, make([]byte, 12)} {
		if i == 3 {
			item[0] = bdbItemOffPage
			le.PutUint32(item[4:], 2)
			le.PutUint32(item[8:], uint32(len(long)))
		}
		end -= len(item)
		copy(page[end:], item)
		le.PutUint16(page[26+2*i:], uint16(end))
	}
	for i, number := range []int{2, 3} {
		value := data[number*512:][:512]
		value[25] = bdbTypeOverflow
		part := long[min(i*486, len(long)):min((i+1)*486, len(long))]
		le.PutUint16(value[22:], uint16(len(part)))
		le.PutUint32(value[16:], uint32(number)+1)
		copy(value[26:], part)
	}
	return data
}

// What the small ones have is what a fuzzer begins with.
func TestSmall(t *testing.T) {
	for name, db := range map[string]struct {
		data []byte
		n    int
	}{"sqlite": {fixture(t, "sqlite-small"), 12}, "ndb": {ndbSmall(), 1}, "bdb": {bdbSmall(), 2}} {
		if got, err := read(db.data, nil); err != nil || len(got) != db.n {
			t.Errorf("%s has %q, %v", name, got, err)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add(fixture(f, "sqlite-small"), []byte{})
	f.Add(fixture(f, "sqlite-wal-main")[:32<<10], fixture(f, "sqlite-wal"))
	for _, data := range [][]byte{sqliteCircle(), sqliteReserved(), bdbCircle(), ndbSlots(), ndbSmall(), bdbSmall()} {
		f.Add(data, []byte{})
	}
	f.Fuzz(func(t *testing.T, main, wal []byte) {
		if _, err := read(main, wal); err != nil && !errors.Is(err, ErrDamaged) {
			t.Error(err)
		}
	})
}
