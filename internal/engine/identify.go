package engine

import (
	"fmt"
	"sync"

	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/slipway-build/slipway/internal/fileop"
	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/store"
)

// identify computes the key of a node. It evaluates inputs only where their files count and no
// memo tells their digest.
func (r *Run) identify(n *node) (identity, error) {
	if src := n.v.Op.GetSource(); src != nil {
		return r.identifySource(n, src)
	}
	uses, err := n.uses()
	if err != nil {
		return identity{}, r.fail(n, err)
	}
	inputs := make([]inputIdentity, len(uses))
	fresh := make([]bool, len(uses))
	var g errgroup.Group
	for i, u := range uses {
		in := n.inputs[i]
		g.Go(func() error {
			var err error
			switch {
			case u.whole && in.n != nil:
				var id identity
				id, err = in.n.identity()
				inputs[i], fresh[i] = inputIdentity{index: in.index, key: id.key}, id.fresh
			case u.whole:
				inputs[i].key = "scratch"
			case len(u.copies) > 0:
				inputs[i].content, err = r.content(in, u.copies, func() { r.prefetch(n, uses) })
				err = r.fail(n, r.missing(n, in, err))
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return identity{}, err
	}
	canonical, err := n.v.Canonical()
	if err != nil {
		return identity{}, r.fail(n, err)
	}
	id := r.seal(n, operationLines(n.v.Op, canonical, platformName(r, n.v.Op.Platform), inputs))
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
func (r *Run) prefetch(n *node, uses []use) {
	for i, u := range uses {
		if !u.whole || n.inputs[i].n == nil {
			continue
		}
		r.bg.Add(1)
		go func() {
			defer r.bg.Done()
			n.inputs[i].n.result() //nolint:errcheck // the error reaches who needs the result, and ends the run
		}()
	}
}

// content returns the digest of the files that copies select from an input. missing is called
// before the input is evaluated for it. The error has no place: several instructions may ask for the same files.
func (r *Run) content(in edge, copies []*pb.FileActionCopy, missing func()) (digest.Digest, error) {
	if in.n == nil {
		d, err := fileop.SourceDigest(r.ctx, layer.Merged(nil), copies, nil)
		return d, err
	}
	sel := ""
	for _, c := range copies {
		sel += selectionLine(c) + "\n"
	}
	sel = fmt.Sprintf("%d\n%s", in.index, sel)
	in.n.mu.Lock()
	f, ok := in.n.contents[sel]
	if !ok {
		f = sync.OnceValues(func() (digest.Digest, error) { return r.digest(in, copies, missing) })
		in.n.contents[sel] = f
	}
	in.n.mu.Unlock()
	return f()
}

func (r *Run) digest(in edge, copies []*pb.FileActionCopy, missing func()) (digest.Digest, error) {
	if isLocal(in.n) {
		return r.localDigest(in, copies)
	}
	id, err := in.n.identity()
	if err != nil {
		return "", err
	}
	memo := contentMemoKey(id.key, in.index, copies)
	if !id.fresh {
		v, ok, err := r.recallMemo(memo)
		if err != nil {
			return "", err
		}
		if ok {
			return r.remember(memo, digest.Digest(v)), nil
		}
		d, ok, err := r.foreignMemo(memo)
		if err != nil {
			return "", err
		}
		if ok {
			return r.remember(memo, d), nil
		}
	}
	missing()
	v, err := r.value(in)
	if err != nil {
		return "", err
	}
	tree, err := r.Tree(r.ctx, v, store.NeedContent)
	if err != nil {
		return "", err
	}
	d, err := fileop.SourceDigest(r.ctx, tree, copies, nil)
	if err != nil {
		return "", err
	}
	return r.remember(memo, d), r.putMemo(r.ctx, memo, d.String())
}
