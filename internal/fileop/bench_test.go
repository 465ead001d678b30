package fileop

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand"
	"os"
	"path/filepath"
	"testing"

	"github.com/moby/buildkit/solver/pb"
	"github.com/slipway-build/slipway/internal/layer"
)

// manyFiles makes 20,000 files of 150 MB in all.
func manyFiles(b *testing.B) string {
	b.Helper()
	dir := shmDir(b)
	r := rand.New(rand.NewSource(1))
	data := make([]byte, 15000)
	r.Read(data)
	for i := range 20000 {
		d := filepath.Join(dir, "src", fmt.Sprint(i/200))
		if i%200 == 0 {
			if err := os.MkdirAll(d, 0o755); err != nil {
				b.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(d, fmt.Sprint(i)), data[:r.Intn(15000)], 0o644); err != nil {
			b.Fatal(err)
		}
	}
	return dir
}

func BenchmarkManyFiles(b *testing.B) {
	dir := manyFiles(b)
	tree := layer.OpenDir(dir, layer.DirOptions{Owner: &layer.Owner{}})
	action := cp("/", "/app")
	plan := func(b *testing.B) *Plan {
		out, err := Make(context.Background(), &pb.FileOp{Actions: []*pb.FileAction{{
			Input: -1, SecondaryInput: 0, Action: &pb.FileAction_Copy{Copy: action},
		}}}, []layer.Tree{tree}, Options{})
		if err != nil {
			b.Fatal(err)
		}
		return out[0].Plans[0]
	}
	b.Run("digest", func(b *testing.B) {
		for b.Loop() {
			if _, err := SourceDigest(context.Background(), tree, []*pb.FileActionCopy{action}, nil); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("plan", func(b *testing.B) {
		for b.Loop() {
			plan(b)
		}
	})
	b.Run("plan to tar", func(b *testing.B) {
		for b.Loop() {
			w := layer.NewTarWriter(sha256.New())
			if err := plan(b).WriteTo(w); err != nil {
				b.Fatal(err)
			}
			w.Close()
		}
	})
	b.Run("plan to dir", func(b *testing.B) {
		for b.Loop() {
			to := shmDir(b)
			w, err := layer.NewDirWriter(to)
			if err != nil {
				b.Fatal(err)
			}
			if err := plan(b).WriteTo(w); err != nil {
				b.Fatal(err)
			}
			if err := w.Close(); err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			os.RemoveAll(to)
			b.StartTimer()
		}
	})
	var archive bytes.Buffer
	w := layer.NewTarWriter(&archive)
	if err := layer.WalkLayer(dir, w); err != nil {
		b.Fatal(err)
	}
	w.Close()
	b.Run("dir to tar", func(b *testing.B) {
		for b.Loop() {
			w := layer.NewTarWriter(io.Discard)
			if err := layer.WalkLayer(dir, w); err != nil {
				b.Fatal(err)
			}
			w.Close()
		}
	})
	b.Run("tar to dir", func(b *testing.B) {
		for b.Loop() {
			to := shmDir(b)
			w, err := layer.NewDirWriter(to)
			if err != nil {
				b.Fatal(err)
			}
			if _, err := layer.ReadTar(bytes.NewReader(archive.Bytes()), layer.TarOptions{}, w); err != nil {
				b.Fatal(err)
			}
			if err := w.Close(); err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			os.RemoveAll(to)
			b.StartTimer()
		}
	})
}
