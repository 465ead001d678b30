package imagesize

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/hex"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/internal/layer"
)

// maxPlaces bounds how many places of one content are listed.
const maxPlaces = 16

// Twice is what stands in an image more than once, in several places or in several layers, also where a later layer hides it.
// Several names of one file are one place.
type Twice struct {
	Size     int64    `json:"size"`     // bytes of all copies but one of each content
	Files    int      `json:"files"`    // how many copies that are
	Contents []Copies `json:"contents"` // the most bytes first
}

// Copies is one content that stands in several places.
type Copies struct {
	Digest digest.Digest `json:"digest"`
	Size   int64         `json:"size"`   // of one
	Copies int           `json:"copies"` // two at least
	Places []Place       `json:"places"` // some of them
}

// Extra is how many bytes all copies but one have.
func (c *Copies) Extra() int64 { return int64(c.Copies-1) * c.Size }

// Place is where a content stands.
type Place struct {
	Path        string `json:"path"`
	Instruction int    `json:"instruction"`
}

// contents remembers of each file as much of its digest as tells others apart.
type contents struct{ prints []fingerprint }

type fingerprint struct {
	sum  uint64
	size int64
}

// digestOf is the digest of a file's content, which is read when nobody knows it. "" is that of an empty one.
func digestOf(e *layer.Entry) (digest.Digest, error) {
	if e.Digest != "" || e.Content == nil {
		return e.Digest, nil
	}
	return layer.HashContent(e)
}

func fingerprintOf(d digest.Digest, size int64) fingerprint {
	var b [8]byte
	if text := d.Encoded(); len(text) >= 16 {
		_, _ = hex.Decode(b[:], []byte(text[:16])) // a digest is hexadecimal
	}
	return fingerprint{binary.BigEndian.Uint64(b[:]), size}
}

func (c *contents) note(e *layer.Entry) error {
	if e.Size == 0 {
		return nil
	}
	d, err := digestOf(e)
	if err == nil && d != "" {
		c.prints = append(c.prints, fingerprintOf(d, e.Size))
	}
	return err
}

// repeated adds up what comes more than once, and returns how often the largest of it does.
func (c *contents) repeated(out *Twice, most int) map[fingerprint]int {
	slices.SortFunc(c.prints, func(a, b fingerprint) int { return cmp.Or(cmp.Compare(a.sum, b.sum), cmp.Compare(a.size, b.size)) })
	type run struct {
		fingerprint
		n int
	}
	var runs []run
	bySize := func(a, b run) int { return cmp.Compare(int64(b.n-1)*b.size, int64(a.n-1)*a.size) }
	for i := 0; i < len(c.prints); {
		n := 1
		for i+n < len(c.prints) && c.prints[i+n] == c.prints[i] {
			n++
		}
		if n > 1 {
			out.Size += int64(n-1) * c.prints[i].size
			out.Files += n - 1
			if runs = append(runs, run{c.prints[i], n}); len(runs) > 4*most {
				slices.SortFunc(runs, bySize)
				runs = runs[:most]
			}
		}
		i += n
	}
	slices.SortFunc(runs, bySize)
	all := map[fingerprint]int{}
	for _, r := range runs[:min(len(runs), most)] {
		all[r.fingerprint] = r.n
	}
	return all
}

// find fills in where the largest contents are that stand twice. of gives the instruction of each layer.
func (c *contents) find(ctx context.Context, trees []layer.Tree, of []int, out *Twice, most int) error {
	out.Contents = []Copies{}
	wanted := c.repeated(out, most)
	c.prints = nil
	if len(wanted) == 0 {
		return nil
	}
	all := map[digest.Digest]*Copies{}
	for i, t := range trees {
		seen := map[linkKey]bool{}
		err := layer.Walk(t, ".", func(e *layer.Entry) error {
			if e.IsDir() {
				return context.Cause(ctx)
			}
			return c.place(e, of[i], wanted, seen, all)
		})
		if err != nil {
			return err
		}
	}
	for _, copies := range all {
		if copies.Copies > 1 {
			out.Contents = append(out.Contents, *copies)
		}
	}
	slices.SortFunc(out.Contents, func(a, b Copies) int {
		return cmp.Or(cmp.Compare(b.Extra(), a.Extra()), cmp.Compare(a.Digest, b.Digest))
	})
	return nil
}

// place notes where a file is whose content is wanted.
func (c *contents) place(e *layer.Entry, instruction int, wanted map[fingerprint]int, seen map[linkKey]bool, all map[digest.Digest]*Copies) error {
	if !e.IsRegular() || e.Size == 0 {
		return nil
	}
	d, err := digestOf(e)
	if err != nil || wanted[fingerprintOf(d, e.Size)] == 0 {
		return err
	}
	if e.Nlink > 1 {
		key := linkKey{0, e.Dev, e.Inode}
		if seen[key] {
			return nil
		}
		seen[key] = true
	}
	copies := all[d]
	if copies == nil {
		copies = &Copies{Digest: d, Size: e.Size}
		all[d] = copies
	}
	if copies.Copies++; len(copies.Places) < maxPlaces {
		copies.Places = append(copies.Places, Place{"/" + e.Path, instruction})
	}
	return nil
}
