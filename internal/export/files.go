package export

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/slipway-build/slipway/internal/layer"
)

func bytesReader(b []byte) io.Reader { return bytes.NewReader(b) }

// Files hands all files of a root filesystem to a sink, hard links as such.
func Files(t layer.Tree, sink layer.Sink) error {
	type inode struct{ dev, ino uint64 }
	first := map[inode]string{}
	return layer.Walk(t, ".", func(e *layer.Entry) error {
		if e.Path == "." {
			return nil
		}
		if e.Nlink > 1 && !e.IsDir() {
			id := inode{e.Dev, e.Inode}
			if to, ok := first[id]; ok {
				link := *e
				link.Hardlink, link.Link, link.Content, link.Size = true, to, nil, 0
				return sink.Add(&link)
			}
			first[id] = e.Path
		}
		return sink.Add(e)
	})
}

// Tar writes a root filesystem as a tar archive.
func Tar(t layer.Tree, w io.Writer) error {
	tw := layer.NewTarWriter(w)
	if err := errors.Join(Files(t, tw), tw.Close()); err != nil {
		return fmt.Errorf("writing files as tar: %w", err)
	}
	return nil
}
