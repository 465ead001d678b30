package imagesize

import (
	"cmp"
	"slices"
)

// Node is a file or a directory with what is below it. What is too small to be listed counts in the directory alone, so the
// sum of its children may be less than a directory has.
type Node struct {
	Name     string  `json:"name"` // "/" is the root; with a slash at the end it is a directory
	Size     int64   `json:"size"` // bytes that a container sees
	Files    int     `json:"files"`
	Wasted   int64   `json:"wasted,omitempty"` // bytes of earlier layers that are hidden
	Children []*Node `json:"children,omitempty"`
}

// add counts a child, and lists it unless it is small.
func (n *Node) add(child *Node, share float64) {
	n.Size += child.Size
	n.Files += child.Files
	n.Wasted += child.Wasted
	if least := int64(share * float64(n.Size+n.Wasted)); child.Size+child.Wasted > 0 && child.Size+child.Wasted >= least {
		n.Children = append(n.Children, child)
	}
	if len(n.Children) > 64 && len(n.Children) >= 4*int(1/share) { // those that were large once
		n.Children = slices.DeleteFunc(n.Children, func(c *Node) bool { return float64(c.Size+c.Wasted) < share*float64(n.Size+n.Wasted) })
	}
}

// prune leaves out what is smaller than least bytes, and puts the largest first.
func (n *Node) prune(least int64) {
	n.Children = slices.DeleteFunc(n.Children, func(c *Node) bool { return c.Size+c.Wasted < least })
	slices.SortFunc(n.Children, func(a, b *Node) int {
		return cmp.Or(cmp.Compare(b.Size, a.Size), cmp.Compare(b.Wasted, a.Wasted), cmp.Compare(a.Name, b.Name))
	})
	for _, c := range n.Children {
		c.prune(least)
	}
}
