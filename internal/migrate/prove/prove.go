// Package prove builds what a script of the builder pattern builds, as the script does it and by the one Dockerfile that it is migrated to,
// and compares the images.
//
// # Caveats
//
// The script itself is not run: its builds are carried out with its arguments, and the files that it takes out of containers are put into a
// copy of the context, so nothing is written beside it. Steps that both ways have are run once, as they have the same keys: a step that
// makes other bytes each time is none that differs.
package prove

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/slipway-build/slipway/internal/build"
	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/migrate"
	"github.com/slipway-build/slipway/internal/progress"
	"github.com/slipway-build/slipway/internal/store"
	"github.com/slipway-build/slipway/internal/view"
	"github.com/slipway-build/slipway/internal/view/imagediff"
)

// maxChanges bounds how many differences are told.
const maxChanges = 100

// Prover is what builds.
type Prover struct {
	Builder *build.Builder
	Store   *store.Store
	Sink    progress.Sink
	Base    build.Request // what all builds have
	Lookup  func(name string) (string, bool)
}

// Proof is what came of it.
type Proof struct {
	Merged     *migrate.Merged
	Comparison *imagediff.Comparison
	Sum        imagediff.Sum
	Changes    []imagediff.Change // the first ones
}

// Same reports whether the images have the same files and the same configuration. Histories always differ.
func (p *Proof) Same() bool {
	return len(p.Comparison.Config) == 0 && p.Sum.Added+p.Sum.Removed+p.Sum.Changed == 0
}

// proving is one proof under way.
type proving struct {
	*Prover
	script *migrate.Script
	names  []string // of images, which go at the end
	images map[*migrate.Build]store.Image
	trees  map[string]layer.Tree // by image
}

// Prove builds both, and merges what the script does by what the images tell.
func (p *Prover) Prove(ctx context.Context, s *migrate.Script) (_ *Proof, err error) {
	r := &proving{Prover: p, script: s, images: map[*migrate.Build]store.Image{}, trees: map[string]layer.Tree{}}
	defer func() {
		for _, name := range r.names {
			_, rerr := view.RemoveImage(context.WithoutCancel(ctx), p.Store, name, true)
			if !errors.Is(rerr, store.ErrNotFound) {
				err = errors.Join(err, rerr)
			}
		}
	}()
	if err := inside(s); err != nil {
		return nil, err
	}
	for _, b := range s.Builds {
		if err := r.old(ctx, b); err != nil {
			return nil, fmt.Errorf("building as line %d of %s does: %w", b.Line, s.Name, err)
		}
	}
	opt := migrate.Options{IsDir: r.isDir, IsLink: r.isLink}
	proof, err := r.new(ctx, opt)
	if err == nil && !proof.Same() && owners(proof) {
		opt.Root = true
		proof, err = r.new(ctx, opt)
	}
	return proof, err
}

// inside is an error about a build whose context is neither below the script's directory nor below the working directory: steps could send what is
// there anywhere, and the script is somebody else's.
func inside(s *migrate.Script) error {
	var within []string
	for _, dir := range []string{s.Dir, "."} {
		real, err := realPath(dir)
		if err != nil {
			return err
		}
		within = append(within, real)
	}
	for _, b := range s.Builds {
		dir, err := realPath(filepath.Join(s.Dir, b.Context))
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(within, func(top string) bool { rel, err := filepath.Rel(top, dir); return err == nil && filepath.IsLocal(rel) }) {
			return migrate.Problems{{File: s.Name, Line: b.Line, Text: "its context " + dir + " is outside of the script's directory: call this in a directory that has both, if you want it to be built"}}
		}
	}
	return nil
}

// realPath is the absolute path of a directory, behind its links.
func realPath(dir string) (string, error) {
	real, err := filepath.EvalSymlinks(dir)
	if err == nil {
		real, err = filepath.Abs(real)
	}
	return real, err
}

// owners reports whether owners differ, which files have in a container and lose on the way through a directory.
func owners(p *Proof) bool {
	return slices.ContainsFunc(p.Changes, func(c imagediff.Change) bool { return slices.Contains(c.What, "owner") })
}

// request is a build with a name of its own.
func (r *proving) request(text, dir, target, platform string, args []migrate.Arg) build.Request {
	req := r.Base
	name := fmt.Sprintf("slipway-migrate.invalid/%d:%d", os.Getpid(), len(r.names))
	r.names = append(r.names, name)
	req.Context, req.DockerfileText, req.Target, req.Tags = dir, text, target, []string{name}
	if platform != "" {
		req.Platforms = []string{platform}
	}
	req.BuildArgs = map[string]string{}
	for k, v := range r.Base.BuildArgs {
		req.BuildArgs[k] = v
	}
	for _, a := range args {
		if _, given := r.Base.BuildArgs[a.Name]; !given {
			req.BuildArgs[a.Name] = os.Expand(a.Value, func(name string) string {
				v, _ := r.Lookup(name)
				return v
			})
		}
	}
	return req
}

func (r *proving) build(ctx context.Context, req build.Request) (store.Image, error) {
	if _, err := r.Builder.Build(ctx, req, r.Sink); err != nil {
		return store.Image{}, err
	}
	return view.UseImage(ctx, r.Store, req.Tags[0])
}

// old builds one image as the script does.
func (r *proving) old(ctx context.Context, b *migrate.Build) error {
	dir := filepath.Join(r.script.Dir, b.Context)
	if len(b.Files) > 0 {
		copied, err := r.contextOf(ctx, b)
		defer os.RemoveAll(copied)
		if err != nil {
			return err
		}
		dir = copied
	}
	req := r.request(b.Text, dir, b.Target, b.Platform, b.Args)
	req.Contexts = map[string]string{}
	for name, url := range r.Base.Contexts {
		req.Contexts[name] = url
	}
	for name, of := range b.Foreign {
		req.Contexts[name] = "docker-image://" + of
	}
	for name, earlier := range b.Built {
		req.Contexts[name] = "docker-image://" + r.images[earlier].Name
	}
	img, err := r.build(ctx, req)
	r.images[b] = img
	return err
}

// contextOf is a copy of the context of a build with the files that come out of containers.
func (r *proving) contextOf(ctx context.Context, b *migrate.Build) (string, error) {
	base, err := r.Store.TempDir()
	if err != nil {
		return "", err
	}
	root, err := os.OpenRoot(base)
	if err != nil {
		return base, err
	}
	defer root.Close()
	if err := copyDir(ctx, filepath.Join(r.script.Dir, b.Context), root); err != nil {
		return base, fmt.Errorf("copying the context: %w", err)
	}
	for _, e := range b.Files {
		rel, err := filepath.Rel(b.Context, e.To)
		if err != nil || !filepath.IsLocal(rel) {
			continue
		}
		tree, err := r.treeOf(ctx, e)
		if err == nil {
			err = put(tree, e.Path, e.Follow || e.Contents, root, rel)
		}
		if err != nil {
			return base, fmt.Errorf("taking %s out of a container, as line %d does: %w", e.Path, e.Line, err)
		}
	}
	return base, nil
}

// treeOf is what the container has that a file comes out of.
func (r *proving) treeOf(ctx context.Context, e *migrate.Extract) (layer.Tree, error) {
	name := e.Image
	if e.Build != nil {
		name = r.images[e.Build].Name
	}
	key := name + "\n" + strings.Join(e.Runs, "\n")
	if t := r.trees[key]; t != nil {
		return t, nil
	}
	img, err := r.Store.UseImage(ctx, name)
	if len(e.Runs) > 0 || err != nil {
		img, err = r.build(ctx, r.request("FROM "+name+"\n"+strings.Join(e.Runs, "\n")+"\n", r.script.Dir, "", "", nil))
	}
	if err != nil {
		return nil, err
	}
	t, err := r.Store.Tree(ctx, img.Layers, store.NeedContent)
	r.trees[key] = t
	return t, err
}

// isDir tells whether an image has a directory at a path, behind links.
func (r *proving) isDir(b *migrate.Build, image, name string) bool {
	e := r.entry(b, image, name, true)
	return e != nil && e.IsDir()
}

// isLink tells whether an image has a symbolic link at a path.
func (r *proving) isLink(b *migrate.Build, image, name string) bool {
	e := r.entry(b, image, name, false)
	return e != nil && e.IsSymlink()
}

// entry is what an image has at a path; nil: nothing.
func (r *proving) entry(b *migrate.Build, image, name string, follow bool) *layer.Entry {
	t, err := r.treeOf(context.Background(), &migrate.Extract{Build: b, Image: image})
	if err != nil {
		return nil
	}
	p, err := layer.Resolve(t, name, follow)
	if err != nil {
		return nil
	}
	e, err := t.Lstat(p)
	if err != nil {
		return nil
	}
	return e
}

// new builds the one Dockerfile, and compares.
func (r *proving) new(ctx context.Context, opt migrate.Options) (*Proof, error) {
	merged, err := r.script.Merge(opt)
	if err != nil {
		return nil, err
	}
	proof := &Proof{Merged: merged}
	img, err := r.build(ctx, r.request(merged.Text, filepath.Join(r.script.Dir, merged.Context), merged.Target, merged.Platform, merged.Args))
	if err != nil {
		return nil, fmt.Errorf("building the new Dockerfile: %w", err)
	}
	old := imagediff.Image{Name: r.script.Name, Image: r.images[r.script.Runtime()]}
	proof.Comparison, err = imagediff.Compare(ctx, r.Store, old, imagediff.Image{Name: "the new Dockerfile", Image: img}, imagediff.Options{})
	if err != nil {
		return nil, err
	}
	proof.Sum, err = proof.Comparison.Files(ctx, imagediff.Options{}, func(c imagediff.Change) error {
		if len(proof.Changes) < maxChanges {
			proof.Changes = append(proof.Changes, c)
		}
		return nil
	})
	return proof, err
}
