package store

import (
	"bytes"
	"context"
	_ "crypto/sha512" // an algorithm that a registry may use
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestWriteBlobVerifies(t *testing.T) {
	content := []byte("content of a blob")
	good := ocispec.Descriptor{Digest: digest.FromBytes(content), Size: int64(len(content))}
	other := digest.FromString("another content")
	broken := errors.New("the line is broken")
	tests := []struct {
		name string
		desc ocispec.Descriptor
		r    io.Reader
		want string
	}{
		{"another digest", ocispec.Descriptor{Digest: other, Size: good.Size}, bytes.NewReader(content), "want " + other.String()},
		{"too short", ocispec.Descriptor{Digest: good.Digest, Size: good.Size + 1}, bytes.NewReader(content), "content has 17 bytes, want 18"},
		{"too long", ocispec.Descriptor{Digest: good.Digest, Size: good.Size - 1}, bytes.NewReader(content), "content has more than 16 bytes, want 16"},
		{"right but for more", good, io.MultiReader(bytes.NewReader(content), strings.NewReader("x")), "more than 17"},
		{"broken", good, io.MultiReader(bytes.NewReader(content[:5]), iotest.ErrReader(broken)), "the line is broken"},
		{"no digest", ocispec.Descriptor{Digest: "nonsense", Size: 1}, bytes.NewReader(content), `"nonsense"`},
		{"a path for a digest", ocispec.Descriptor{Digest: "sha256:../../../../etc/passwd", Size: 1}, bytes.NewReader(content), "writing blob"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newStore(t)
			wantErr(t, s.WriteBlob(context.Background(), tt.desc, tt.r), tt.want)
			if s.HasBlob(tt.desc.Digest) || s.HasBlob(good.Digest) {
				t.Error("a blob is there")
			}
			if files, _ := os.ReadDir(s.root + "/blobs/sha256"); len(files) != 0 {
				t.Errorf("files are left: %v", files)
			}
			wantClean(t, s)
		})
	}
	s := newStore(t)
	must(t, s.WriteBlob(context.Background(), good, bytes.NewReader(content)))
	if got, err := s.ReadBlob(context.Background(), good.Digest); err != nil || !bytes.Equal(got, content) {
		t.Errorf("the blob is %q, %v", got, err)
	}
	wantClean(t, s)
}

func TestBlobOfOtherAlgorithm(t *testing.T) {
	s := newStore(t)
	desc := ocispec.Descriptor{Digest: digest.SHA512.FromString("x"), Size: 1}
	must(t, s.WriteBlob(context.Background(), desc, strings.NewReader("x")))
	if got, err := s.ReadBlob(context.Background(), desc.Digest); err != nil || string(got) != "x" {
		t.Errorf("the blob is %q, %v", got, err)
	}
}

func TestMissingBlob(t *testing.T) {
	s := newStore(t)
	if _, err := s.OpenBlob(context.Background(), digest.FromString("x")); !errors.Is(err, ErrNotFound) {
		t.Errorf("error is %v, want ErrNotFound", err)
	}
	wantErr(t, func() error { _, err := s.OpenBlob(context.Background(), "x"); return err }(), `opening blob "x"`)
}

// A file that was damaged is found out by whoever reads it to the end, however it is read.
func TestDamagedBlob(t *testing.T) {
	if testing.Short() {
		t.Skip("long: blobs of all kinds")
	}
	damages := map[string]func(data []byte) []byte{
		"flipped":   func(b []byte) []byte { b[len(b)/2] ^= 1; return b },
		"truncated": func(b []byte) []byte { return b[:len(b)-1] },
		"longer":    func(b []byte) []byte { return append(b, 'x') },
		"empty":     func([]byte) []byte { return nil },
	}
	readers := map[string]func(io.Reader) error{
		"ReadAll": func(r io.Reader) error { _, err := io.ReadAll(r); return err },
		"Copy":    func(r io.Reader) error { _, err := io.Copy(io.Discard, r); return err },
		"Copy to file": func(r io.Reader) error {
			f, err := os.CreateTemp(t.TempDir(), "")
			if err != nil {
				return nil
			}
			defer f.Close()
			_, err = io.Copy(f, r)
			return err
		},
		"one byte": func(r io.Reader) error { _, err := io.ReadAll(iotest.OneByteReader(r)); return err },
	}
	content := bytes.Repeat([]byte("0123456789abcdef"), 40<<10)
	for name, damage := range damages {
		t.Run(name, func(t *testing.T) {
			for how, read := range readers {
				s := newStore(t)
				desc, err := s.PutBlob(context.Background(), "", content)
				must(t, err)
				must(t, os.WriteFile(s.blobPath(desc.Digest), damage(bytes.Clone(content)), 0o644))
				if has := s.HasBlob(desc.Digest); has != (name == "flipped") {
					t.Errorf("HasBlob is %t", has)
				}
				r, err := s.OpenBlob(context.Background(), desc.Digest)
				must(t, err)
				if err := read(r); err == nil || !strings.Contains(err.Error(), "want "+desc.Digest.String()) {
					t.Errorf("reading with %s gave %v", how, err)
				}
				must(t, r.Close())
			}
		})
	}
}

func TestHasBlobNeedsFileAndRecord(t *testing.T) {
	s := newStore(t)
	desc, err := s.PutBlob(context.Background(), "", []byte("x"))
	must(t, err)
	if !s.HasBlob(desc.Digest) {
		t.Error("a blob that was put is not there")
	}
	must(t, os.Remove(s.blobPath(desc.Digest)))
	if s.HasBlob(desc.Digest) {
		t.Error("a blob without a file is there")
	}
	unrecorded := digest.FromString("y")
	must(t, os.WriteFile(s.blobPath(unrecorded), []byte("y"), 0o644))
	if s.HasBlob(unrecorded) {
		t.Error("a file without a record is there")
	}
	// Putting it again repairs it.
	_, err = s.PutBlob(context.Background(), "", []byte("x"))
	must(t, err)
	if got, err := s.ReadBlob(context.Background(), desc.Digest); err != nil || string(got) != "x" {
		t.Errorf("the repaired blob is %q, %v", got, err)
	}
}

func TestBlobWriterAbort(t *testing.T) {
	s := newStore(t)
	w, err := s.NewBlob(digest.Canonical)
	must(t, err)
	fmt.Fprint(w, "half")
	w.Abort()
	w.Abort()
	if s.HasBlob(digest.FromString("half")) {
		t.Error("an aborted blob is there")
	}
	wantClean(t, s)
	w, err = s.NewBlob(digest.Canonical)
	must(t, err)
	fmt.Fprint(w, "whole")
	if w.Size() != 5 || w.Digest() != digest.FromString("whole") {
		t.Errorf("writer has %d bytes, %s", w.Size(), w.Digest())
	}
	d, err := w.Commit(context.Background())
	must(t, err)
	w.Abort()
	if !s.HasBlob(d) {
		t.Error("Abort after Commit took the blob away")
	}
}

func TestConcurrentBlobWriters(t *testing.T) {
	s := newStore(t)
	other := open(t, s.root) // as another process has it
	var wg sync.WaitGroup
	errs := make(chan error, 64)
	for i := range 32 {
		content := []byte(strings.Repeat(fmt.Sprint(i%4), 100_000))
		desc := ocispec.Descriptor{Digest: digest.FromBytes(content), Size: int64(len(content))}
		wg.Add(1)
		go func() {
			defer wg.Done()
			st := s
			if i%2 == 1 {
				st = other
			}
			if err := st.WriteBlob(context.Background(), desc, bytes.NewReader(content)); err != nil {
				errs <- err
			}
			if got, err := s.ReadBlob(context.Background(), desc.Digest); err != nil || !bytes.Equal(got, content) {
				errs <- fmt.Errorf("reading after writing: %v", err)
			}
		}()
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
	wantClean(t, s)
}
