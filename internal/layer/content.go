package layer

import (
	"bytes"
	"io"
)

// Bytes is a [Content] held in memory.
type Bytes []byte

// Open reads the bytes from their beginning.
func (b Bytes) Open() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }
