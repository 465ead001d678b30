package layer

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

// Bytes is a [Content] held in memory.
type Bytes []byte

// Open reads the bytes from their beginning.
func (b Bytes) Open() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }

// SHA256Digest is the digest of a sum, as digest.NewDigestFromBytes makes it, with one allocation.
func SHA256Digest(sum []byte) digest.Digest {
	const prefix = string(digest.SHA256) + ":"
	var b [len(prefix) + 2*sha256.Size]byte
	copy(b[:], prefix)
	return digest.Digest(b[:len(prefix)+hex.Encode(b[len(prefix):], sum[:min(len(sum), sha256.Size)])])
}

var hashBuffers = sync.Pool{New: func() any { b := make([]byte, 64<<10); return &b }}

// HashContent reads a file and returns the SHA-256 of its content, which the memory of its directory notes.
func HashContent(e *Entry) (digest.Digest, error) {
	began := time.Now()
	r, err := openRaw(e.Content)
	if err != nil {
		return "", err
	}
	defer r.Close()
	h := sha256.New()
	buf := hashBuffers.Get().(*[]byte)
	defer hashBuffers.Put(buf)
	// Only the bare Read makes io.CopyBuffer use the buffer.
	n, err := io.CopyBuffer(h, struct{ io.Reader }{SkipHoles(r, e.Size)}, *buf)
	if err != nil {
		return "", err
	}
	if n != e.Size {
		return "", fmt.Errorf("file changed while being read: got %d bytes, want %d", n, e.Size)
	}
	d := digest.NewDigest(digest.SHA256, h)
	remember(e.Content, began, d)
	return d, nil
}

// openRaw opens a content, which may be nil, for one who only wants to read.
func openRaw(c Content) (io.ReadCloser, error) {
	var fd int
	var err error
	switch f := c.(type) {
	case *hostFile:
		fd, err = f.open()
	case *heldFile:
		fd, err = f.take()
	default:
		return OpenContent(&Entry{Content: c})
	}
	if err != nil {
		return nil, err
	}
	return fdReader(fd), nil
}
