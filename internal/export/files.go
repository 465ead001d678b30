package export

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/slipway-build/slipway/internal/layer"
)

func bytesReader(b []byte) io.Reader { return bytes.NewReader(b) }

// Tar writes a root filesystem as a tar archive.
func Tar(t layer.Tree, w io.Writer) error {
	tw := layer.NewTarWriter(w)
	if err := errors.Join(layer.WriteTree(t, tw), tw.Close()); err != nil {
		return fmt.Errorf("writing files as tar: %w", err)
	}
	return nil
}
