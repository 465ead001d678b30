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
	} {
		if got, err := read(data, nil); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s has %d packages, %v", name, len(got), err)
		}
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

func FuzzRead(f *testing.F) {
	for _, kind := range []string{"ndb", "bdb"} {
		f.Add(fixture(f, kind), []byte{})
	}
	f.Add(sqliteCircle(), []byte{})
	f.Add(bdbCircle(), []byte{})
	f.Fuzz(func(t *testing.T, main, wal []byte) {
		if _, err := read(main, wal); err != nil && !errors.Is(err, ErrDamaged) {
			t.Error(err)
		}
	})
}
