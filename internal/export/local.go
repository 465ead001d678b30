package export

import (
	"errors"
	"fmt"
	"os"

	"github.com/slipway-build/slipway/internal/layer"
)

// Local writes a root filesystem into a directory of the user's, which is made when it is
// missing. What is there already stays, but for files of the same names.
func Local(t layer.Tree, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("writing files: %w", err)
	}
	w, err := layer.NewDirWriter(dir)
	if err != nil {
		return fmt.Errorf("writing files: %w", err)
	}
	if err := errors.Join(layer.WriteTree(t, w), w.Close()); err != nil {
		return fmt.Errorf("writing files to %s: %w", dir, err)
	}
	return nil
}
