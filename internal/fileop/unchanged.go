package fileop

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer"
)

// dropUnchanged takes out of the plan what the base has already, just as it is: copying files onto
// themselves makes no layer larger. BuildKit compares in the same way ([layer.Same]) when it makes
// a layer.
func (p *Plan) dropUnchanged() error {
	if err := p.compareLinks(p.root, ".", map[*linkSet]linked{}); err != nil {
		return err
	}
	return p.dropBelow(p.root, ".")
}

// linked is what all names of a file are names of in the base.
type linked struct{ dev, inode uint64 }

// compareLinks notes which files with several names the base has not as such.
func (p *Plan) compareLinks(n *node, dir string, base map[*linkSet]linked) error {
	for name, c := range n.children {
		path := joinName(dir, name)
		if err := p.compareLinks(c, path, base); err != nil {
			return err
		}
		if several, err := c.links.several(); err != nil || !several {
			if err != nil {
				return err
			}
			continue
		}
		if c.links.hidden > 0 { // in a directory that the base has not
			c.links.changed = true
			continue
		}
		below, err := p.base.Lstat(path)
		if err != nil && !missing(err) && !errors.Is(err, unix.ENOTDIR) {
			return err
		}
		if err != nil || below.Nlink < 2 {
			c.links.changed = true
			continue
		}
		id := linked{below.Dev, below.Inode}
		if first, ok := base[c.links]; ok && first != id {
			c.links.changed = true
		}
		base[c.links] = id
	}
	return nil
}

// several reports whether a file has more names than one in the plan.
func (l *linkSet) several() (bool, error) {
	if l == nil || l.names > 1 {
		return l != nil, nil
	}
	if l.copy != nil {
		if err := l.copy.countLinks(); err != nil {
			return false, err
		}
	}
	return l.names+l.hidden > 1, nil
}

// dropIn is dropBelow for a directory that may not be in memory, and then is not afterwards.
func (p *Plan) dropIn(n *node, dir string) error {
	away := n.lazy != nil
	if err := p.hold(n); err != nil {
		return err
	}
	err := p.dropBelow(n, dir)
	if err == nil && away && len(n.children) > 0 {
		p.seal(n)
	}
	return err
}

// dropBelow looks at what is below a directory that the base has too.
func (p *Plan) dropBelow(n *node, dir string) error {
	for name, c := range n.children {
		if c.entry == nil || c.entry.IsDir() && c.noBase || c.links != nil && c.links.changed {
			continue // removed, made anew with all that is below, or with more names than before
		}
		path := joinName(dir, name)
		if c.entry.IsDir() {
			if err := p.dropIn(c, path); err != nil {
				return err
			}
			if c.lazy != nil || len(c.children) > 0 {
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
