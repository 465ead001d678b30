package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/moby/buildkit/solver/pb"

	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/store"
	"github.com/slipway-build/slipway/internal/warm"
)

// A step on top of one that ran warm would find what that one left in its directories, had that been cold. So it has the same caches there, whatever
// it runs; where it cannot, or they are others by now (they were pruned, or came from another machine), it runs cold, with all that it stands on.

// errNeedsCold is why a step cannot run on what was made warm.
var errNeedsCold = errors.New("it would not find what earlier steps have left")

// dirsOf are the directories alone, each once.
func dirsOf(all []store.WarmDir) (dirs []string) {
	for _, d := range all {
		dirs = append(dirs, d.Dir)
	}
	slices.Sort(dirs)
	return slices.Compact(dirs)
}

// namesOnly are directories as somebody knows of them who does not have what is around them.
func namesOnly(all []store.WarmDir) (names []store.WarmDir) {
	for _, d := range dirsOf(all) {
		names = append(names, store.WarmDir{Dir: d})
	}
	return names
}

// id is the name of the cache in the store, also of one that the Dockerfile names.
func (d *warmed) id() string {
	if d.named != nil {
		return d.named.CacheOpt.GetID()
	}
	return d.cache
}

// needsNone is an error where some directories are those of what a step stands on, which cannot have them.
func needsNone(below []store.WarmDir) error {
	for _, d := range below {
		if d.Cache != "" {
			return fmt.Errorf("%w in %s", errNeedsCold, d.Dir)
		}
	}
	return nil
}

// inherited are the directories that a step has because what it stands on was made with them.
func (r *Run) inherited(ctx context.Context, n *node, root Value, below []store.WarmDir) (all []warmed, err error) {
	if needsNone(below) == nil {
		return nil, nil
	}
	tree, err := r.Tree(ctx, root, store.NeedContent)
	if err != nil {
		return nil, err
	}
	for _, b := range below {
		if b.Cache == "" || hiddenBy(n, b.Dir) {
			continue
		}
		d := warmed{
			Path: warm.Path{Dir: b.Dir, Locked: b.Locked}, real: b.Dir, cache: b.Cache, carried: store.WarmAnywhere(b.Cache), made: b.Made, below: true, uid: b.UID, gid: b.GID,
		}
		if other := slices.IndexFunc(all, func(o warmed) bool { return warm.Overlap(o.real, b.Dir) }); other >= 0 {
			if all[other].real == b.Dir && all[other].cache == b.Cache && all[other].made == b.Made {
				continue
			}
			return nil, fmt.Errorf("%w in %s, in one place", errNeedsCold, b.Dir)
		}
		if err := r.mayInherit(n, tree, &d); err != nil {
			return nil, err
		}
		if !store.IsWarmCache(b.Cache) {
			sharing := pb.CacheSharingOpt_SHARED
			if b.Locked {
				sharing = pb.CacheSharingOpt_LOCKED
			}
			d.named = &pb.Mount{Dest: b.Dir, Input: -1, Output: int64(pb.SkipOutput), MountType: pb.MountType_CACHE, CacheOpt: &pb.CacheOpt{ID: b.Cache, Sharing: sharing}}
		}
		all = append(all, d)
	}
	return all, nil
}

// hiddenBy reports whether a mount of the Dockerfile hides a directory in a step, warm or cold.
func hiddenBy(n *node, dir string) bool {
	op := n.v.Op.GetExec()
	return slices.ContainsFunc(op.Mounts, func(m *pb.Mount) bool { return m.Dest != pb.RootMount && isWithin(dir, mountPoint(op, m)) })
}

// isWithin reports whether a path is another one, or below it.
func isWithin(name, dir string) bool { return warm.Overlap(name, dir) && len(name) >= len(dir) }

// mayInherit says why a step cannot have a directory as what it stands on left it.
func (r *Run) mayInherit(n *node, tree layer.Tree, d *warmed) error {
	op := n.v.Op.GetExec()
	if is, err := r.Engine.opt.Store.IsCache(d.cache, d.made); err != nil {
		return err
	} else if !is {
		return fmt.Errorf("%w in %s: that cache was dropped since", errNeedsCold, d.real)
	}
	if mountsAt(op, tree, d) {
		return fmt.Errorf("%w in %s beside what is mounted there", errNeedsCold, d.real)
	}
	if at, err := layer.Resolve(tree, d.real, true); err != nil || "/"+at != d.real {
		return fmt.Errorf("%w in %s, where another file is now", errNeedsCold, d.real) //nolint:errorlint // it is no directory
	} else if empty, err := isEmpty(tree, at); err != nil || !empty {
		return errors.Join(err, fmt.Errorf("%w in %s beside what was put there", errNeedsCold, d.real))
	}
	return nil
}

// beside adds the directories of a step's own tools to those that it has in any case.
func beside(inherited, own []warmed) ([]warmed, error) {
	all := inherited
	for _, d := range own {
		i := slices.IndexFunc(all, func(o warmed) bool { return warm.Overlap(o.real, d.real) })
		switch {
		case i < 0:
			all = append(all, d)
		case all[i].real == d.real:
			all[i].Tool, all[i].Locked = d.Tool, all[i].Locked || d.Locked
		default:
			return nil, fmt.Errorf("%w in %s, which is not %s", errNeedsCold, all[i].real, d.real)
		}
	}
	return all, nil
}

// sameWarm notes which caches a step has, and is an error when one is another than what the step stands on was made with.
func (x *execution) sameWarm() error {
	for i := range x.work.warm.own {
		d := &x.work.warm.own[i]
		c := x.caches[d.id()]
		switch {
		case c == nil:
		case d.below && c.Made() != d.made:
			return fmt.Errorf("%w in %s: that cache was dropped since", errNeedsCold, d.real)
		case !d.below:
			d.made = c.Made()
		}
	}
	return nil
}
