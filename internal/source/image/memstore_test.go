package imagesource

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// memStore is a Store in memory.
type memStore struct {
	mu      sync.Mutex
	blobs   map[digest.Digest][]byte
	refs    map[string]digest.Digest
	locals  map[string]digest.Digest
	sources map[digest.Digest][]string
	writing int
	most    int // the most blobs written at the same time
}

func newMemStore() *memStore {
	return &memStore{blobs: map[digest.Digest][]byte{}, refs: map[string]digest.Digest{}, locals: map[string]digest.Digest{}, sources: map[digest.Digest][]string{}}
}

func (m *memStore) HasBlob(d digest.Digest) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, ok := m.blobs[d]
	return ok
}

func (m *memStore) OpenBlob(_ context.Context, d digest.Digest) (io.ReadCloser, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b, ok := m.blobs[d]
	if !ok {
		return nil, fmt.Errorf("blob %s: %w", d, errdefs.ErrNotFound)
	}
	if got := digest.FromBytes(b); got != d {
		return nil, fmt.Errorf("blob %s has digest %s", d, got)
	}
	return io.NopCloser(bytes.NewReader(b)), nil
}

func (m *memStore) WriteBlob(_ context.Context, desc ocispec.Descriptor, r io.Reader) error {
	m.mu.Lock()
	m.writing++
	m.most = max(m.most, m.writing)
	m.mu.Unlock()
	b, err := io.ReadAll(r)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.writing--
	if err != nil {
		return fmt.Errorf("writing blob %s: %w", desc.Digest, err)
	}
	if got := digest.FromBytes(b); got != desc.Digest || int64(len(b)) != desc.Size {
		return fmt.Errorf("writing blob: got %s of %d bytes, want %s of %d: %w", got, len(b), desc.Digest, desc.Size, errdefs.ErrDataLoss)
	}
	m.blobs[desc.Digest] = b
	return nil
}

func (m *memStore) Ref(_ context.Context, ref, platform string) (digest.Digest, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	d, ok := m.refs[ref+" "+platform]
	return d, ok
}

func (m *memStore) SetRef(_ context.Context, ref, platform string, d digest.Digest) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.refs[ref+" "+platform] = d
	return nil
}

func (m *memStore) LocalImage(_ context.Context, ref string) (digest.Digest, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	d, ok := m.locals[ref]
	return d, ok
}

func (m *memStore) AddSources(_ context.Context, repository string, blobs ...digest.Digest) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, d := range blobs {
		m.sources[d] = append(m.sources[d], repository)
	}
	return nil
}

// digests lists what is stored, sorted.
func (m *memStore) digests() []digest.Digest {
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []digest.Digest
	for d := range m.blobs {
		list = append(list, d)
	}
	slices.Sort(list)
	return list
}

// damage changes a stored blob.
func (m *memStore) damage(d digest.Digest) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.blobs[d] = append([]byte("x"), m.blobs[d]...)
}
