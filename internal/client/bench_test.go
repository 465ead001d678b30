package client

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/moby/buildkit/session/filesync"
	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/source/local"
)

// BenchmarkContext reads a context of 20,000 files for the first time, again, and after one changed, beside the mirror
// that BuildKit keeps.
func BenchmarkContext(b *testing.B) {
	dir := b.TempDir()
	then := time.Now().Add(-time.Hour)
	for d := range 200 {
		sub := filepath.Join(dir, fmt.Sprintf("d%03d", d))
		if err := os.Mkdir(sub, 0o755); err != nil {
			b.Fatal(err)
		}
		for f := range 100 {
			name := filepath.Join(sub, fmt.Sprintf("f%03d", f))
			if err := os.WriteFile(name, []byte(fmt.Sprintf("%0*d", 1000+f*40, d*100+f)), 0o644); err != nil {
				b.Fatal(err)
			}
			if err := os.Chtimes(name, then, then); err != nil {
				b.Fatal(err)
			}
		}
	}
	change := func(i int) {
		if err := os.WriteFile(filepath.Join(dir, "d100/f050"), []byte(fmt.Sprint("changed ", i)), 0o644); err != nil {
			b.Fatal(err)
		}
		if err := os.Chtimes(filepath.Join(dir, "d100/f050"), then.Add(time.Duration(i)), then.Add(time.Duration(i))); err != nil {
			b.Fatal(err)
		}
	}
	s := newServer(b)
	v := s.connect("key", directory(b, dir))
	read := func(b *testing.B, write bool) {
		c := s.build(v)
		x, tree := c.treeFor(b, op(), nil, nil)
		selected(b, x, tree, "")
		if write { // as COPY into a stage that is run
			w, err := layer.NewDirWriter(b.TempDir())
			if err != nil {
				b.Fatal(err)
			}
			if err := layer.WriteTree(local.Strict(tree), w); err != nil {
				b.Fatal(err)
			}
			if err := w.Close(); err != nil {
				b.Fatal(err)
			}
		}
		if err := c.Close(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
	run := func(name string, f func(b *testing.B)) {
		b.Run(name, func(b *testing.B) {
			begin := processorTime()
			f(b)
			b.ReportMetric(float64((processorTime()-begin).Milliseconds())/float64(b.N), "cpu-ms/op")
		})
	}
	run("first", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			v = s.connect(fmt.Sprint("key ", b.N, i), directory(b, dir))
			read(b, false)
		}
	})
	v = s.connect("key", directory(b, dir))
	read(b, true)
	run("again", func(b *testing.B) {
		for b.Loop() {
			read(b, false)
		}
	})
	run("changed", func(b *testing.B) {
		for i := 1; b.Loop(); i++ {
			change(i)
			read(b, true)
		}
	})
	mirror := func(b *testing.B, dest string) {
		caller, err := s.sessions.Get(b.Context(), v.id, false)
		if err != nil {
			b.Fatal(err)
		}
		if err := filesync.FSSync(b.Context(), caller, filesync.FSSendRequestOpt{Name: "context", DestDir: dest}); err != nil {
			b.Fatal(err)
		}
	}
	run("mirror/first", func(b *testing.B) {
		for b.Loop() {
			mirror(b, b.TempDir())
		}
	})
	dest := b.TempDir()
	mirror(b, dest)
	run("mirror/again", func(b *testing.B) {
		for b.Loop() {
			mirror(b, dest)
		}
	})
	run("mirror/changed", func(b *testing.B) {
		for i := 1; b.Loop(); i++ {
			change(i)
			mirror(b, dest)
		}
	})
}

// processorTime is what this process, client and server, has had of the processors: it says more than the time when others
// are busy.
func processorTime() time.Duration {
	var u unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
