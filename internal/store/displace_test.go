package store

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A directory in the place of a file is damage as any other: what is written takes its place, and what is read is not there.
func TestDirectoryInPlaceOfFile(t *testing.T) {
	s := newStore(t)
	ctx := context.Background()
	desc, err := s.PutBlob(ctx, "text/plain", []byte("content"))
	must(t, err)
	cache, err := s.Cache(ctx, "id", SharingShared, func(string) error { return nil })
	must(t, err)
	cache.Release()
	lock := filepath.Join(s.root, "caches", cacheName("id")+".lock")
	for _, path := range []string{s.blobPath(desc.Digest), filepath.Join(s.root, "index.json"), lock} {
		must(t, os.RemoveAll(path))
		must(t, os.MkdirAll(filepath.Join(path, "in", "it"), 0o700))
	}
	if parts, err := s.readParts(desc.Digest); parts != nil || err != nil {
		t.Errorf("a manifest that is a directory: %v, %v", parts, err)
	}
	if records, err := s.mountRecords(); err != nil || len(records) != 1 {
		t.Errorf("the cache mounts are %v, %v", records, err)
	}
	if _, err = s.PutBlob(ctx, "text/plain", []byte("content")); err != nil {
		t.Errorf("a blob in the place of a directory: %v", err)
	}
	if err := s.writeIndex(ctx); err != nil {
		t.Errorf("the index in the place of a directory: %v", err)
	}
	cache, err = s.Cache(ctx, "id", SharingShared, func(string) error { return nil })
	if err != nil {
		t.Fatalf("a lock in the place of a directory: %v", err)
	}
	cache.Release()
	r, err := s.OpenBlob(ctx, desc.Digest)
	must(t, err)
	defer r.Close()
	if data, err := io.ReadAll(r); err != nil || string(data) != "content" {
		t.Errorf("the blob has %q, %v", data, err)
	}
	must(t, os.Remove(lock))
	must(t, os.MkdirAll(filepath.Join(lock, "in"), 0o700))
	trash, err := s.TempDir()
	must(t, err)
	if gone, err := s.pruneMount(cacheName("id"), time.Now(), trash); !gone || err != nil {
		t.Errorf("pruning a cache whose lock is a directory: %v, %v", gone, err)
	}
}

// A value that no record can have is damage, in words that say what to do.
func TestRecordWithoutValue(t *testing.T) {
	s := newStore(t)
	var text string
	err := s.db.QueryRow("SELECT NULL").Scan(&text)
	if err == nil || !strings.Contains(err.Error(), "meta.db is damaged") {
		t.Errorf("got %v", err)
	}
}
