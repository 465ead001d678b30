package engine

import (
	"context"
	"errors"
	"fmt"

	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/slipway-build/slipway/internal/fileop"
	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/progress"
	"github.com/slipway-build/slipway/internal/store"
	"github.com/slipway-build/slipway/internal/terminal"
)

// identify computes the key of a node. It evaluates inputs only where their files count and no
// memo tells their digest. The error has no place, unless it is a [Failure].
func (r *Run) identify(ctx context.Context, n *node) (identity, error) {
	if src := n.v.Op.GetSource(); src != nil {
		return r.identifySource(ctx, n, src)
	}
	uses, err := n.uses()
	if err != nil {
		return identity{}, err
	}
	inputs := make([]inputIdentity, len(uses))
	fresh := make([]bool, len(uses))
	one := func(ctx context.Context, i int) (err error) {
		u, in := uses[i], n.inputs[i]
		switch {
		case u.whole && in.n != nil:
			var id identity
			id, err = in.n.identity(ctx)
			inputs[i], fresh[i] = inputIdentity{index: in.index, key: id.key}, id.fresh
		case u.whole:
			inputs[i].key = "scratch"
		case len(u.copies) > 0:
			inputs[i].content, err = r.content(ctx, in, u.copies, func() { r.prefetch(ctx, n, uses) })
			err = r.unread(ctx, n, i, err)
		}
		return err
	}
	if len(uses) == 1 {
		err = one(ctx, 0)
	} else {
		g, ctx := errgroup.WithContext(ctx)
		for i := range uses {
			g.Go(func() error { return one(ctx, i) })
		}
		err = g.Wait()
	}
	if err != nil {
		return identity{}, err
	}
	canonical, err := n.v.Canonical()
	if err != nil {
		return identity{}, err
	}
	id := r.seal(n, operationLines(n.v.Op, canonical, platformName(r, n.v.Op.Platform), r.Engine.opt.Fidelity, inputs))
	for _, f := range fresh {
		id.fresh = id.fresh || f
	}
	return id, nil
}

// seal makes the identity of a node from the lines of its key.
func (r *Run) seal(n *node, lines keyLines) identity {
	if r.Engine.opt.DumpKey != nil {
		r.Engine.opt.DumpKey(n.v.Name(), lines)
	}
	return identity{key: lines.sum(), lines: lines, fresh: r.opt.NoCache || n.v.IgnoreCache()}
}

// prefetch evaluates the inputs that n stands on while one that counts by content is still being
// made: then n is most likely a miss, and its own stage need not wait for the other one.
func (r *Run) prefetch(ctx context.Context, n *node, uses []use) {
	for i, u := range uses {
		if !u.whole || n.inputs[i].n == nil {
			continue
		}
		ahead(ctx, func(ctx context.Context) error {
			_, err := r.outcome(ctx, n.inputs[i].n, false)
			return err
		})
	}
}

// content returns the digest of the files that copies select from an input. missing is called
// before the input is evaluated for it. The error has no place: several instructions may ask for the same files.
func (r *Run) content(ctx context.Context, in edge, copies []*pb.FileActionCopy, missing func()) (digest.Digest, error) {
	if in.n == nil {
		return fileop.SourceDigest(ctx, layer.Merged(nil), copies, nil)
	}
	sel := selectionOf(in, copies)
	knows := in.n.run // whoever made the files is asked for what is known of them
	d, err := in.n.content(sel).do(ctx, knows.life, knows, func(ctx context.Context) (digested, error) {
		return knows.digest(ctx, in, sel, copies, missing)
	})
	if err == nil && d.memo != "" {
		r.remember(in.n, d)
	}
	if err == nil && d.list != nil {
		r.keepList(d)
	}
	return d.digest, err
}

// selectionOf names what copies select of an edge.
func selectionOf(in edge, copies []*pb.FileActionCopy) string {
	sel := fmt.Sprintf("%d\n", in.index)
	for _, c := range copies {
		sel += selectionLine(c) + "\n"
	}
	return sel
}

func (r *Run) digest(ctx context.Context, in edge, sel string, copies []*pb.FileActionCopy, missing func()) (digested, error) {
	if isLocal(in.n) {
		return r.localDigest(ctx, in, sel, copies)
	}
	id, err := in.n.identity(ctx)
	if err != nil {
		return digested{}, err
	}
	d := digested{memo: contentMemoKey(id.key, in.index, copies)}
	if !id.fresh {
		v, ok, lent, err := r.recallMemo(ctx, d.memo)
		if err != nil {
			return d, err
		}
		if ok {
			d.digest, d.lent, d.recalled = digest.Digest(v), lent, true
			return d, nil
		}
		if d.digest, ok, err = r.foreignMemo(ctx, id.key, d.memo); ok || err != nil {
			d.lent, d.recalled = ok, ok
			return d, err
		}
	}
	missing()
	out, err := r.selected(ctx, in, copies)
	if err != nil {
		return d, err
	}
	v, err := out.output(in)
	if err != nil {
		return d, err
	}
	tree, err := r.Tree(ctx, v, store.NeedContent)
	if err != nil {
		return d, err
	}
	if d.digest, d.list, err = fileop.SourceList(ctx, tree, copies, nil, r.Engine.tmp()); err != nil {
		return d, err
	}
	if len(out.warm) > 0 { // it is what this build finds, and nobody else
		d.memo, d.warm = "", out.warm
		return d, nil
	}
	return d, r.putMemo(ctx, d.memo, d.digest.String())
}

// agree makes sure that the files that copies select of v, an input, are those whose digest is in the key of who reads them: where the digest was
// remembered, or a cache's, the result may be of another run of a step that does not always make the same, or the digest wrong. Then it is
// forgotten, and the error is store.ErrDamaged. What the key of a source says does not change.
func (r *Run) agree(ctx context.Context, in edge, copies []*pb.FileActionCopy, v Value) error {
	sel := selectionOf(in, copies)
	d, ok := in.n.content(sel).peek()
	if !ok || !d.recalled || in.n.isSource() && !d.lent {
		return nil
	}
	knows := in.n.run
	is, err := in.n.content("is "+sel).do(ctx, knows.life, knows, func(ctx context.Context) (is digested, err error) {
		tree, err := knows.Tree(ctx, v, store.NeedContent)
		if err == nil {
			is.digest, err = fileop.SourceDigest(ctx, tree, copies, nil)
		}
		return is, err
	})
	if gone := new(fileop.NotFoundError); err != nil && !errors.As(err, &gone) || err == nil && is.digest == d.digest {
		return err
	}
	id, err := in.n.identity(ctx)
	if err != nil {
		return err
	}
	if err := knows.forgetMemo(ctx, id.key, d.memo); err != nil {
		return err
	}
	name := "files of " + terminal.Short(in.n.v.Name(), maxCommand) + " are not those that were remembered: the build begins again"
	progress.Start(r.sink, progress.Vertex{Digest: digest.FromString(name), Name: name}).Done(nil)
	return fmt.Errorf("files of %s have another digest than was remembered: %w", in.n.v.Name(), store.ErrDamaged)
}
