package fileop

import (
	"fmt"

	"github.com/slipway-build/slipway/internal/layer"
)

// dropUnchanged takes out of the plan what the base has already, just as it is: copying files onto
// themselves makes no layer larger. BuildKit compares in the same way ([layer.Same]) when it makes
// a layer.
func (p *Plan) dropUnchanged() error {
	return p.dropBelow(p.root, ".")
}

// dropBelow looks at what is below a directory that the base has too.
func (p *Plan) dropBelow(n *node, dir string) error {
	for name, c := range n.children {
		if c.entry == nil || c.entry.IsDir() && c.noBase {
			continue // removed, or made anew with all that is below
		}
		path := joinName(dir, name)
		if c.entry.IsDir() {
			if err := p.dropBelow(c, path); err != nil {
				return err
			}
			if len(c.children) > 0 {
				continue
			}
		}
		below, err := p.base.Lstat(path)
		if missing(err) {
			continue
		}
		if err != nil {
			return err
		}
		same, err := layer.Same(below, c.entry)
		if err != nil {
			return fmt.Errorf("comparing %q with what is there: %w", abs(path), err)
		}
		if same {
			delete(n.children, name)
		}
	}
	return nil
}
