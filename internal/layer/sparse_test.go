package layer

import (
	"bytes"
	"io"
	"math/rand"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// blocks is what a file takes, in bytes.
func blocks(t testing.TB, name string) int64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(name, &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}

// sparseData has runs of zeros and of other bytes.
func sparseData(r *rand.Rand) []byte {
	var out []byte
	for range r.Intn(8) {
		n := []int{1, 511, 512, 4096, sparseBlock - 1, sparseBlock, sparseBlock + 1, r.Intn(3 * sparseBlock), r.Intn(2 << 20)}[r.Intn(9)]
		run := make([]byte, n)
		if r.Intn(2) == 0 {
			r.Read(run)
		}
		out = append(out, run...)
	}
	return out
}

// What is written in pieces of any size is what is read, by any of those that read.
func TestSparseWriter(t *testing.T) {
	dir, seeds := shmDir(t), int64(300)
	if testing.Short() {
		seeds = 30
	}
	for seed := range seeds {
		r := rand.New(rand.NewSource(seed))
		want := sparseData(r)
		name := filepath.Join(dir, "f")
		f, err := os.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		w := NewSparseWriter(f)
		for rest := want; len(rest) > 0; {
			n := min(len(rest), 1+r.Intn(3*sparseBlock))
			if _, err := w.Write(rest[:n]); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(name); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("seed %d: %d bytes, %v, want %d", seed, len(got), err, len(want))
		}
		if f, err = os.Open(name); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(SkipHoles(f, int64(len(want))))
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("seed %d: without holes %d bytes, %v, want %d", seed, len(got), err, len(want))
		}
		f.Close()
		// As a file of a layer: copied in the kernel, and through a stream.
		at := time.Unix(1e9, 0)
		copied, streamed := shmDir(t), shmDir(t)
		for to, c := range map[string]Content{copied: immutable(t, dir, "f"), streamed: Bytes(want)} {
			d, err := NewDirWriter(to)
			if err != nil {
				t.Fatal(err)
			}
			e := &Entry{Path: "f", Mode: unix.S_IFREG | 0o644, Size: int64(len(want)), Content: c, ModTime: at}
			if len(want) == 0 {
				e.Content = nil
			}
			if err := d.Add(e); err != nil {
				t.Fatal(err)
			}
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
			if got, err := os.ReadFile(to + "/f"); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("seed %d: copied %d bytes, %v, want %d", seed, len(got), err, len(want))
			}
		}
		if tarOf(t, copied); !bytes.Equal(tarOf(t, copied), tarOf(t, streamed)) {
			t.Fatalf("seed %d: the tars differ", seed)
		}
		os.Remove(name)
	}
}

func immutable(t testing.TB, dir, name string) Content {
	t.Helper()
	e, err := OpenDir(dir, DirOptions{Immutable: true}).Lstat(name)
	if err != nil {
		t.Fatal(err)
	}
	return e.Content
}

// A file costs what it holds, in a layer as in a stream, wherever its holes are.
func TestHolesStay(t *testing.T) {
	needRoot(t)
	const size = 256 << 20
	for _, tt := range []struct {
		name string
		data []int64 // where there is something
	}{{"none", nil}, {"end", []int64{size - 3}}, {"beginning", []int64{0}}, {"middle", []int64{1_000_000, 200_000_000}}} {
		src := shmDir(t)
		f, err := os.Create(src + "/f")
		if err != nil {
			t.Fatal(err)
		}
		for _, at := range tt.data {
			if _, err := f.WriteAt([]byte("end"), at); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.Truncate(size); err != nil {
			t.Fatal(err)
		}
		f.Close()
		dir := writeDir(t, []*Entry{{Path: "f", Mode: unix.S_IFREG | 0o644, Size: size, Content: immutable(t, src, "f"), ModTime: time.Unix(1e9, 0)}})
		if got := blocks(t, dir+"/f"); got > 1<<20 {
			t.Errorf("%s: the copy takes %d bytes", tt.name, got)
		}
		// Through a tar, which a blob holds without its zeros.
		blob, err := os.Create(src + "/blob")
		if err != nil {
			t.Fatal(err)
		}
		w := NewSparseWriter(blob)
		tw := NewTarWriter(w)
		if err := WalkLayer(dir, tw); err != nil {
			t.Fatal(err)
		}
		if err := tw.Close(); err != nil {
			t.Fatal(err)
		}
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
		if got := blocks(t, src+"/blob"); got > 1<<20 {
			t.Errorf("%s: the tar takes %d bytes", tt.name, got)
		}
		if _, err := blob.Seek(0, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		again := shmDir(t)
		d, err := NewDirWriter(again)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ReadTar(SkipHoles(blob, size), TarOptions{}, d); err != nil {
			t.Fatal(err)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		if got := blocks(t, again+"/f"); got > 1<<20 {
			t.Errorf("%s: unpacked it takes %d bytes", tt.name, got)
		}
		a, err := HashContent(&Entry{Size: size, Content: immutable(t, src, "f")})
		b, berr := HashContent(&Entry{Size: size, Content: immutable(t, again, "f")})
		if err != nil || berr != nil || a != b {
			t.Errorf("%s: content %s became %s: %v, %v", tt.name, a, b, err, berr)
		}
		blob.Close()
	}
}

// A file that is cut off while it is read is no file with zeros at its end.
func TestHolesOfFileThatShrinks(t *testing.T) {
	name := filepath.Join(shmDir(t), "f")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(8 << 20); err != nil {
		t.Fatal(err)
	}
	r := SkipHoles(f, 8<<20)
	if err := f.Truncate(1 << 20); err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, r); err == nil {
		t.Errorf("%d bytes were read of a file that was cut off", n)
	}
}
