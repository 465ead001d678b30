package digests

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/internal/layer"
)

// save writes a memory's file anew.
func save(t *testing.T, m *Memory, file string) {
	t.Helper()
	err := m.Save(func(write func(*os.File) error) error {
		f, err := os.Create(file + ".next")
		if err != nil {
			return err
		}
		return errors.Join(write(f), f.Close(), os.Rename(f.Name(), file))
	})
	if err != nil {
		t.Fatal(err)
	}
}

func stamp(i int) layer.Stamp {
	return layer.Stamp{Dev: uint64(i % 3), Ino: uint64(i), Size: int64(i), Mtime: -1, Ctime: 5}
}

func sum(i int) digest.Digest {
	var b [32]byte
	binary.LittleEndian.PutUint32(b[:], uint32(i))
	return layer.SHA256Digest(b[:])
}

// What is known of a file comes together from several builds, and is found among many files.
func TestRecall(t *testing.T) {
	file := filepath.Join(t.TempDir(), "digests")
	for round := range 3 {
		m := Open(file, "")
		for i := range 1000 {
			if i%5 == round+1 {
				m.Note(stamp(i), time.Now(), sum(i))
			}
		}
		if round == 1 { // the version counts, not the file
			changed := stamp(2)
			changed.Ctime++
			if got := m.Recall(changed); got != "" {
				t.Errorf("another version is known: %v", got)
			}
		}
		save(t, m, file)
	}
	m := Open(file, "")
	for i := range 1000 {
		want := digest.Digest("")
		if i%5 >= 1 && i%5 <= 3 {
			want = sum(i)
		}
		if got := m.Recall(stamp(i)); got != want {
			t.Fatalf("file %d: got %s, want %s", i, got, want)
		}
	}
}

// A file that changed in the tick of the clock in which it was read may have changed afterwards: no other process
// believes what was read.
func TestRacy(t *testing.T) {
	file := filepath.Join(t.TempDir(), "digests")
	m, s, now := Open(file, ""), stamp(1), time.Now()
	s.Ctime = now.UnixNano()
	m.Note(s, now, sum(1))
	m.Note(stamp(2), now, sum(2))
	if got := m.Recall(s); got != sum(1) {
		t.Errorf("this process knows %q", got)
	}
	save(t, m, file)
	m = Open(file, "")
	if got := m.Recall(s); got != "" {
		t.Errorf("another one knows %q", got)
	}
	if got := m.Recall(stamp(2)); got != sum(2) {
		t.Errorf("of the other file it knows %q", got)
	}
}

func TestUnusedAreDropped(t *testing.T) {
	file := filepath.Join(t.TempDir(), "digests")
	m := Open(file, "")
	m.Note(stamp(1), time.Now(), sum(1))
	for range maxAge + 1 {
		m.dirty = true
		save(t, m, file)
		m = Open(file, "")
	}
	if n := len(m.used); n != 0 {
		t.Errorf("%d digests are kept", n)
	}
}

func TestDamageIsAMiss(t *testing.T) {
	file := filepath.Join(t.TempDir(), "digests")
	m := Open(file, "")
	m.Note(stamp(1), time.Now(), sum(1))
	save(t, m, file)
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for i := range data {
		data[i] ^= 1
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		data[i] ^= 1
		if n := len(Open(file, "").used); n != 0 {
			t.Fatalf("damage of byte %d was not found", i)
		}
	}
}

// Where a directory is in the place of the file of digests it is replaced, and nothing half-written stays.
func TestDigestsInPlaceOfADirectory(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "digests")
	if err := os.MkdirAll(filepath.Join(name, "below"), 0o700); err != nil {
		t.Fatal(err)
	}
	err := replaceFile(name, func(f *os.File) error {
		_, err := f.WriteString("content")
		return err
	})
	if got, rerr := os.ReadFile(name); err != nil || rerr != nil || string(got) != "content" {
		t.Errorf("the file has %q, %v, %v", got, err, rerr)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("these are left: %v, %v", left, err)
	}
}

// Whoever prunes the build cache while digests are written ends no build.
func TestDigestsPrunedMeanwhile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "digests")
	if err := replaceFile(name, func(f *os.File) error { return os.Remove(f.Name()) }); err != nil {
		t.Error(err)
	}
}

// A place is that of the last that was said of a file, also where an earlier process had said something.
func TestPlaces(t *testing.T) {
	file := filepath.Join(t.TempDir(), "digests")
	m := Open(file, "")
	for i := range 3 {
		m.NotePlace(stamp(i), time.Now(), sum(i), int64(1000+i))
	}
	save(t, m, file)
	m = Open(file, "")
	m.NotePlace(stamp(1), time.Now(), sum(1), 7)
	for i, want := range []int64{1000, 7, 1002} {
		if d, place, ok := m.Find(stamp(i)); !ok || d != sum(i) || place != want {
			t.Errorf("file %d: %s at %d, %t, want %d", i, d, place, ok, want)
		}
	}
	if _, _, ok := m.Find(stamp(3)); ok {
		t.Error("a file that nobody told of is known")
	}
	if err := m.SaveTo(file); err != nil {
		t.Fatal(err)
	}
	places := map[uint64]int64{}
	if err := Open(file, "").Each(func(s layer.Stamp, place int64) { places[s.Ino] = place }); err != nil {
		t.Fatal(err)
	}
	if len(places) != 3 || places[0] != 1000 || places[1] != 7 || places[2] != 1002 {
		t.Errorf("saved are %v", places)
	}
}
