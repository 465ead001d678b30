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
	knows := r // who is asked for what is known of the files: whoever made them, and of a source, which may be shared, whoever reads it
	if !in.n.isSource() {
		knows = in.n.run
	}
	sel = fmt.Sprintf("%s\n%d\n%s", knows.scope, in.index, sel)
	in.n.mu.Lock()
	f, ok := in.n.contents[sel]
	if !ok {
		f = sync.OnceValues(func() (digested, error) { return knows.digest(in, copies, missing) })
		in.n.contents[sel] = f
	}
	in.n.mu.Unlock()
	d, err := f()
	if err == nil && d.memo != "" {
		r.remember(d)
	}
	return d.digest, err
}

// digested is the digest of a selection of files, and the memo that it is found under; "" for none.
type digested struct {
	digest digest.Digest
	memo   string
}

func (r *Run) digest(in edge, copies []*pb.FileActionCopy, missing func()) (digested, error) {
	if isLocal(in.n) {
		d, err := r.localDigest(in, copies)
		return digested{digest: d}, err
	}
	id, err := in.n.identity()
	if err != nil {
		return digested{}, err
	}
	d := digested{memo: contentMemoKey(id.key, in.index, copies)}
	if !id.fresh {
		v, ok, err := r.recallMemo(d.memo)
		if err != nil {
			return d, err
		}
		if ok {
			d.digest = digest.Digest(v)
			return d, nil
		}
		if d.digest, ok, err = r.foreignMemo(d.memo); ok || err != nil {
			return d, err
		}
	}
	missing()
	v, err := r.value(in)
	if err != nil {
		return d, err
	}
	tree, err := r.Tree(r.ctx, v, store.NeedContent)
	if err != nil {
		return d, err
	}
	if d.digest, err = fileop.SourceDigest(r.ctx, tree, copies, nil); err != nil {
		return d, err
	}
	return d, r.putMemo(r.ctx, d.memo, d.digest.String())
}
