package layer

import (
	"bytes"
	"math/rand"
	"testing"
)

// Entries -> directory -> entries -> tar -> directory -> tar lose nothing, and both tars are the
// same bytes.
func TestRoundTrip(t *testing.T) {
	needRoot(t)
	for seed := range int64(60) {
		entries := randomLayer(rand.New(rand.NewSource(seed)), true)
		want := collect{}
		for _, e := range entries {
			if err := want.Add(e); err != nil {
				t.Fatal(err)
			}
		}
		dir := writeDir(t, entries)
		if got := walked(t, dir); got != want.describe() {
			t.Fatalf("seed %d: directory gives\n%s\nwant\n%s", seed, got, want.describe())
		}
		first := tarOf(t, dir)

		var direct bytes.Buffer
		tw := NewTarWriter(&direct)
		for _, e := range entries {
			if err := tw.Add(e); err != nil {
				t.Fatal(err)
			}
		}
		if err := tw.Close(); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(direct.Bytes(), first) {
			t.Fatalf("seed %d: the tar of the entries differs from that of their directory", seed)
		}

		again := shmDir(t)
		w, err := NewDirWriter(again)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ReadTar(bytes.NewReader(first), TarOptions{}, w); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if got := walked(t, again); got != want.describe() {
			t.Fatalf("seed %d: tar gives\n%s\nwant\n%s", seed, got, want.describe())
		}
		if !bytes.Equal(tarOf(t, again), first) {
			t.Fatalf("seed %d: the tar changed on its way through a directory", seed)
		}
	}
}
