// Package imagesize tells what takes the bytes of an image: which instruction wrote them and where they are, which of them a
// later layer hides, which stand there twice, and which are what package managers and compilers leave behind.
//
// # Structure
//
// [Measure] walks the trees of all layers side by side, directory by directory (walk.go). Each entry is told to a few
// accounts: of instructions, of directories (directories.go), of what is hidden (hidden.go), of contents (twice.go) and of
// leftovers, whose rules are one table (rules.go). A second walk, only where contents stand twice, finds out where.
//
// # Caveats
//
// Bytes are those of the contents of regular files, as `docker history` adds them up: no directories, no blocks of a
// disk, nothing compressed. A file with several names in a layer counts once. What is held grows with the number of
// directories on the way, of files with several names and, by 16 bytes, of files: lists are the longest ones of each kind.
//
// Names and texts of a report come from the image: who shows them makes them harmless.
package imagesize

import (
	"context"
	"strings"
	"time"

	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/store"
	"github.com/slipway-build/slipway/internal/view"
)

// Options say how much a report tells. Zero values are replaced by [Defaults].
type Options struct {
	Most  int     // entries of each list, the largest ones
	Share float64 // of the image: directories and files that are smaller are not listed by themselves
}

// Defaults are the options of whoever has none.
var Defaults = Options{Most: 100, Share: 0.001}

// Report is what takes the bytes of an image.
type Report struct {
	Image        string        `json:"image"` // as it was asked for
	ID           digest.Digest `json:"id"`
	Platform     string        `json:"platform"`
	Size         int64         `json:"size"`   // bytes of all layers' files
	Shown        int64         `json:"shown"`  // of them, what a container sees
	Wasted       int64         `json:"wasted"` // of them, what a later layer hides: Size is the sum of both
	Efficiency   float64       `json:"efficiency"`
	Files        int           `json:"files"` // that a container sees
	Layers       int           `json:"layers"`
	Instructions []Instruction `json:"instructions"` // the first one first
	Root         *Node         `json:"root"`
	Hidden       []Hidden      `json:"hidden"` // the largest first
	Pairs        []Pair        `json:"hides"`  // all that is hidden, by who wrote and who hides it, the most bytes first
	Twice        Twice         `json:"twice"`
	Leftovers    []Leftover    `json:"leftovers"` // the most bytes first
}

// Instruction is an entry of the image's history with what its layer has. Index counts from the first one, 0; Layer is -1
// without a layer.
type Instruction struct {
	Index     int           `json:"index"`
	Layer     int           `json:"layer"`
	CreatedBy string        `json:"createdBy"`
	Created   *time.Time    `json:"created,omitempty"`
	DiffID    digest.Digest `json:"diffID,omitempty"`
	Size      int64         `json:"size"`
	Files     int           `json:"files"`
	Wasted    int64         `json:"wasted"` // bytes of Size that later layers hide
	Hides     int64         `json:"hides"`  // bytes of earlier layers that this one is the first to hide
}

// Text is what somebody wrote in a Dockerfile, as far as the history tells: without what builders put around it.
func (i *Instruction) Text() string {
	text := strings.TrimSuffix(strings.TrimSpace(i.CreatedBy), " # buildkit")
	if t, ok := strings.CutPrefix(text, "/bin/sh -c #(nop) "); ok {
		return strings.TrimSpace(t)
	}
	if strings.HasPrefix(text, "RUN /bin/sh -c ") || strings.HasPrefix(text, "RUN |") { // "|1 ARG=value" are build arguments
		if _, t, ok := strings.Cut(text, "/bin/sh -c "); ok {
			return "RUN " + t
		}
	}
	if t, ok := strings.CutPrefix(text, "/bin/sh -c "); ok {
		return "RUN " + t
	}
	return text
}

// Measure tells what takes the bytes of an image, under the name by which it was asked for. Layers that nobody has looked into are
// read through, once, and not unpacked.
func Measure(ctx context.Context, s *store.Store, name string, img store.Image, opt Options) (*Report, error) {
	if opt.Most <= 0 {
		opt.Most = Defaults.Most
	}
	if opt.Share <= 0 {
		opt.Share = Defaults.Share
	}
	config, err := view.ImageConfig(ctx, s, img.ID)
	if err != nil {
		return nil, err
	}
	trees := make([]layer.Tree, len(img.Layers))
	for i, id := range img.Layers {
		if trees[i], err = s.OwnTree(ctx, id, store.NeedDigests); err != nil {
			return nil, err
		}
	}
	r := &Report{Image: name, ID: img.ID, Platform: platforms.Format(platforms.Normalize(config.Platform)), Layers: len(trees)}
	layers := r.instructions(config.History, config.RootFS.DiffIDs, len(trees))
	w := newWalk(ctx, trees, opt)
	if err := w.all(); err != nil {
		return nil, err
	}
	w.report(r, layers)
	if err := w.twice.find(ctx, trees, layers, &r.Twice, opt.Most); err != nil {
		return nil, err
	}
	return r, nil
}
