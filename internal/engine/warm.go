package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/sys/user"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/cache"
	"github.com/slipway-build/slipway/internal/fileop"
	"github.com/slipway-build/slipway/internal/graph"
	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/progress"
	"github.com/slipway-build/slipway/internal/sandbox"
	"github.com/slipway-build/slipway/internal/store"
	"github.com/slipway-build/slipway/internal/warm"
)

// A step that runs warm finds directories of its tools as steps of the same project have left them: cache mounts that its Dockerfile does not
// name. What it puts there is in no layer of its, so
//
//   - a directory is warm only where nobody sees it or what it lies in: [warm.Views] tells that of the graph before anything runs, and a
//     guard what links lead to that exist then;
//   - an outcome says which directories were warm in it or in what it stands on. It is recorded under a key of the project's alone, so that
//     nobody else ever finds it: no build without warm paths, no export of a cache. What a copy takes out of it counts by content, as ever;
//   - a node has two outcomes, of which the cold one is carried out when somebody needs it: when the warm one fails, or would be seen.

// Warm has steps run warm.
type Warm struct {
	// Project is whose the directories are. Builds of others never see them.
	Project string
	// Paths are directories that are warm in all steps, besides those of tools: absolute, or below "~".
	Paths []string
}

// warmed is a directory that a step finds warm.
type warmed struct {
	warm.Path
	real     string    // where it is, by the links of the step's filesystem
	cache    string    // the name of the cache in the store
	carried  string    // what it is on any machine, for whom projects are others
	named    *pb.Mount // the same one as a cache mount of the Dockerfile; nil: there is none
	uid, gid int
	made     string // which one of its name the cache is; "": none yet
	below    bool   // what the step stands on was made with it
}

// warming is how a node is carried out: which directories are warm in what it stands on, and in its own step.
type warming struct {
	project string
	below   []store.WarmDir
	own     []warmed
	cold    bool // that was asked for
}

// paths are all directories that are warm in the outcome, sorted.
func (w warming) paths() []store.WarmDir {
	all := slices.Clone(w.below)
	for _, o := range w.own {
		if !o.below {
			all = append(all, store.WarmDir{Dir: o.real, Cache: o.id(), Made: o.made, UID: o.uid, GID: o.gid, Locked: o.Locked})
		}
	}
	slices.SortFunc(all, func(a, b store.WarmDir) int {
		return cmp.Or(strings.Compare(a.Dir, b.Dir), strings.Compare(a.Cache, b.Cache))
	})
	return slices.Compact(all)
}

// flight is the part of a flight's name that tells it from others.
func (w warming) flight() string {
	if all := w.paths(); len(all) > 0 {
		return fmt.Sprintf("\nwarm %q %q", w.project, dirsOf(all))
	}
	return ""
}

// key is the key that the outcome is recorded under.
func (w warming) key(k Key) Key {
	if len(w.below)+len(w.own) > 0 {
		return warmKey(k, w.project)
	}
	return k
}

func warmKey(k Key, project string) Key {
	return k + "@warm:" + Key(digest.FromString(project).Encoded())
}

// seen notes that all of what an edge gives is seen, in all runs whose vertices it stands on.
func (r *Run) seen(e graph.Edge) {
	if r.opt.Warm != nil {
		r.views.Add(e)
	}
	for _, l := range r.opt.Links {
		l.seen(e)
	}
}

// outcome gives what a node gives, as the run may use it: cold where what is warm would be seen, or where that is asked for.
func (r *Run) outcome(ctx context.Context, n *node, cold bool) (*outcome, error) {
	cold = cold || r.opt.Warm == nil || n.run != r && (n.run.opt.Warm == nil || n.run.opt.Warm.Project != r.opt.Warm.Project)
	if cold {
		return n.coldResult(ctx)
	}
	out, err := n.result(ctx)
	if err != nil || !n.run.sees(n, out.warm) {
		return out, err
	}
	return n.coldResult(ctx)
}

// sees reports whether somebody sees one of some directories of a node.
func (r *Run) sees(n *node, dirs []store.WarmDir) bool {
	return slices.ContainsFunc(dirs, func(d store.WarmDir) bool {
		_, seen := r.views.See(n.v.Digest, d.Dir)
		return seen
	})
}

// coldResult gives what the node's operation gives on cold inputs, without warm directories.
func (n *node) coldResult(ctx context.Context) (*outcome, error) {
	if out, ok := n.outcome.peek(); ok && len(out.warm) == 0 || n.run.opt.Warm == nil || n.isSource() {
		return n.result(ctx)
	}
	return n.cold.do(ctx, n.run.life, n.run, func(ctx context.Context) (*outcome, error) {
		out, err := n.run.evaluate(ctx, n, true)
		return out, n.run.fail(ctx, n, err)
	})
}

// selected gives the outcome of an edge as somebody may read it who reads what copies select.
func (r *Run) selected(ctx context.Context, in edge, copies []*pb.FileActionCopy) (*outcome, error) {
	out, err := r.outcome(ctx, in.n, false)
	if err != nil || len(out.warm) == 0 {
		return out, err
	}
	v, err := out.output(in)
	if err != nil {
		return nil, err
	}
	tree, err := r.Tree(ctx, v, store.NeedContent)
	if err != nil {
		return nil, err
	}
	g := &guard{Tree: tree, dirs: dirsOf(out.warm)}
	nothing := func(*layer.Entry) (digest.Digest, error) { return digest.FromString(""), nil }
	_, err = fileop.SourceDigest(ctx, g, copies, nothing)
	switch gone := new(fileop.NotFoundError); {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case g.hit == "" && err == nil:
		return out, nil
	case g.hit == "" && errors.As(err, &gone): // a step may not have written it again that found it done
		r.tellWarm(fmt.Sprintf("%s runs cold: what is copied or mounted from it is not there with warm caches: %v", in.n.v.Name(), err))
		return in.n.coldResult(ctx)
	}
	r.tellWarm(fmt.Sprintf("%s runs cold: files that are copied or mounted from it would be of %s, by a symbolic link", in.n.v.Name(), g.hit))
	return in.n.coldResult(ctx)
}

// guard is a tree in which somebody may come to a directory that was warm.
type guard struct {
	layer.Tree
	dirs []string // absolute and clean
	hit  string   // one that was come to
}

func (g *guard) Lstat(name string) (*layer.Entry, error) {
	e, err := g.Tree.Lstat(name)
	for _, dir := range g.dirs {
		at := path.Join("/", name)
		if within := warm.Overlap(at, dir); within && (len(at) >= len(dir) || errors.Is(err, fs.ErrNotExist)) {
			g.hit = dir
		}
	}
	return e, err
}

// ReadDir counts as coming to a directory where what leads to it is missing, or the directory itself is what would be listed.
func (g *guard) ReadDir(name string) ([]*layer.Entry, error) {
	all, err := g.Tree.ReadDir(name)
	at := path.Join("/", name)
	for _, dir := range g.dirs {
		switch {
		case !warm.Overlap(at, dir):
			continue
		case len(at) >= len(dir):
			g.hit = dir
			continue
		}
		next, _, further := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(dir, at), "/"), "/")
		there := slices.ContainsFunc(all, func(e *layer.Entry) bool { return path.Base(e.Path) == next })
		if !there || !further {
			g.hit = dir
		}
	}
	return all, err
}

// warming finds how a node is carried out that stands on what has some warm directories. An empty filesystem has none.
func (r *Run) warming(ctx context.Context, n *node, id identity, inputs []Value, below []store.WarmDir, cold bool) (warming, error) {
	w := warming{below: below, cold: cold}
	op := n.v.Op.GetExec()
	if cold || r.opt.Warm == nil {
		return w, nil
	}
	w.project = r.opt.Warm.Project
	i := rootMount(op)
	if i < 0 {
		return w, nil
	}
	if m := op.Mounts[i]; id.fresh || op.Security == pb.SecurityMode_INSECURE || m.Input < 0 || int(m.Input) >= len(inputs) ||
		inputs[m.Input].local() || m.Output == int64(pb.SkipOutput) {
		return w, needsNone(below)
	}
	root := inputs[op.Mounts[i].Input]
	inherited, err := r.inherited(ctx, n, root, below)
	if err != nil {
		return w, err
	}
	own, why, err := r.warmDirs(ctx, n, root, r.opt.Warm.Paths, &r.views)
	if err != nil {
		return w, err
	}
	if own, err = beside(inherited, own); err != nil {
		return w, err
	}
	if why != "" {
		r.tellWarm(n.v.Name() + " runs without " + why)
	}
	for i := range own {
		d := &own[i]
		if d.below {
			continue
		}
		on := platformName(r, n.v.Op.Platform)
		if d.Built {
			on += r.basesOf(n)
		}
		on = fmt.Sprintf("%d:%d %s", d.uid, d.gid, on)
		d.cache, d.carried = store.WarmCache(w.project, d.Tool, d.Dir, on), store.WarmCache("", d.Tool, d.Dir, on)
		if d.uid == 0 && d.gid == 0 { // as whose such a mount begins
			d.named = r.namedCache(d.Dir)
		}
	}
	w.own = own
	return w, nil
}

// basesOf names the images that a node stands on.
func (r *Run) basesOf(n *node) (all string) {
	for _, in := range r.standsOn(n, map[*node]bool{}) {
		if img := in.image.Load(); img != nil {
			all += " " + img.Digest.String()
		}
	}
	return all
}

// warmDirs are the directories that a step may find warm which has some root filesystem. why is said of the first one that it may not.
func (r *Run) warmDirs(ctx context.Context, n *node, root Value, more []string, views *warm.Views) (all []warmed, why string, err error) {
	tree, err := r.Tree(ctx, root, store.NeedContent)
	if err != nil {
		return nil, "", err
	}
	op := n.v.Op.GetExec()
	who, name := userOf(tree, op.Meta.User)
	if who == nil {
		return nil, "", nil // running it tells
	}
	for _, p := range warm.Paths(warm.Step{
		Args: op.Meta.Args, Env: op.Meta.Env, UID: uint32(who.Uid), User: name, Home: who.Home, More: more,
		Has: func(name string) bool {
			at, err := layer.Resolve(tree, name, true)
			if err == nil {
				_, err = tree.Lstat(at)
			}
			return err == nil
		},
	}) {
		d := warmed{Path: p, uid: who.Uid, gid: who.Gid}
		ok, by, err := mayWarm(n, tree, &d, views)
		switch {
		case err != nil:
			return nil, "", err
		case ok:
			all = append(all, d)
		case by != "" && why == "":
			why = fmt.Sprintf("the cache of %s: %s", d.Tool, by)
		}
	}
	return all, why, nil
}

// mayWarm reports whether a directory may be warm in a step. by says why not, where the Dockerfile could have it otherwise.
func mayWarm(n *node, tree layer.Tree, d *warmed, views *warm.Views) (ok bool, by string, err error) {
	op := n.v.Op.GetExec()
	at, err := layer.Resolve(tree, d.Dir, true)
	if err != nil {
		return false, "", nil //nolint:nilerr // it is no directory
	}
	d.real = path.Join("/", at)
	if mountsAt(op, tree, d) {
		return false, "", nil
	}
	for _, dir := range []string{d.Dir, d.real} {
		if s, seen := views.See(n.v.Digest, dir); seen {
			return false, seenBy(s, dir), nil
		}
	}
	empty, err := isEmpty(tree, at)
	if err != nil || !empty {
		return false, "", err
	}
	return true, "", nil
}

// ofTheSandbox is what steps find of the sandbox's own in each root filesystem.
func ofTheSandbox() []string {
	return []string{"/proc", "/sys", "/dev", "/etc/hosts", "/etc/resolv.conf", "/etc/hostname"}
}

// mountsAt reports whether something is mounted at, above or in a directory: what the Dockerfile says, or the sandbox has there.
func mountsAt(op *pb.ExecOp, tree layer.Tree, d *warmed) bool {
	all := ofTheSandbox()
	for _, m := range op.Mounts {
		if m.Dest == pb.RootMount {
			continue
		}
		dest := mountPoint(op, m)
		if at, err := layer.Resolve(tree, dest, true); err == nil { // it is where links lead
			all = append(all, path.Join("/", at))
		}
		all = append(all, dest)
	}
	return slices.ContainsFunc(all, func(at string) bool { return warm.Overlap(at, d.Dir) || warm.Overlap(at, d.real) })
}

// seenBy says who sees a directory.
func seenBy(by warm.Sight, dir string) string {
	if by.By == "" {
		return fmt.Sprintf("%s would be missing in the result", dir)
	}
	return fmt.Sprintf("%s would see %s", by.By, dir)
}

// isEmpty reports whether there is nothing at a path but directories and locks.
func isEmpty(tree layer.Tree, name string) (bool, error) {
	empty := true
	err := layer.Walk(tree, name, func(e *layer.Entry) error {
		if e.IsDir() || e.Size == 0 && path.Base(e.Path) == "lock" { // as apt leaves it
			return nil
		}
		empty = false
		return fs.SkipAll
	})
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	return empty, err
}

// mountPoint is where a mount of an operation is.
func mountPoint(op *pb.ExecOp, m *pb.Mount) string {
	if path.IsAbs(m.Dest) {
		return path.Clean(m.Dest)
	}
	return path.Join("/", op.Meta.Cwd, m.Dest)
}

// namedCache finds a cache mount of the run's graph that is empty at first and mounted at a path, as steps that do not name it would have it.
func (r *Run) namedCache(dir string) *pb.Mount {
	r.mu.Lock()
	defer r.mu.Unlock()
	var found *pb.Mount
	for _, n := range r.nodes {
		op := n.v.Op.GetExec()
		for _, m := range op.GetMounts() {
			if m.MountType != pb.MountType_CACHE || m.Input >= 0 || m.Readonly || mountPoint(op, m) != dir {
				continue
			}
			if found == nil || m.CacheOpt.GetID() < found.CacheOpt.GetID() {
				found = m
			}
		}
	}
	return found
}

// userOf finds the user of a step in a root filesystem, with the name if there is one; nil: there is no such user.
func userOf(tree layer.Tree, name string) (who *user.ExecUser, found string) {
	who, found, err := sandbox.FindUser(name, func(file string) (io.ReadCloser, error) {
		f, err := layer.Open(tree, file)
		if err != nil {
			return io.NopCloser(strings.NewReader("")), nil //nolint:nilerr // there is none, or none that the step will read
		}
		return f, nil
	})
	if err != nil {
		return nil, ""
	}
	return who, found
}

// recallWarm looks up what a step of the project gave that ran warm, in a build where nobody sees what was.
func (r *Run) recallWarm(ctx context.Context, n *node, key Key) (store.Result, bool, error) {
	if r.opt.Warm == nil {
		return store.Result{}, false, nil
	}
	res, found, _, err := r.recall(ctx, warmKey(key, r.opt.Warm.Project))
	return res, found && len(res.Warm) > 0 && !r.sees(n, res.Warm), err
}

// tellWarm tells once of a decision.
func (r *Run) tellWarm(text string) {
	if text = "--warm: " + text; r.screen.notice(text) {
		progress.Start(r.sink, progress.Vertex{Digest: digest.FromString(text), Name: text}).Done(nil)
	}
}

// namedWarm are the cache mounts of the Dockerfile that a step has besides its own.
func (x *execution) namedWarm() (all []*pb.Mount) {
	for _, d := range x.work.warm.own {
		if d.named != nil {
			m := d.named.CloneVT()
			m.Dest = d.Dir
			all = append(all, m)
		}
	}
	return all
}

// mountWarm mounts the warm directories of a step, in an order that is the same for all steps.
func (x *execution) mountWarm(n *node) error {
	own := slices.Clone(x.work.warm.own)
	slices.SortFunc(own, func(a, b warmed) int { return strings.Compare(a.cache, b.cache) })
	for _, d := range own {
		if d.named != nil {
			continue
		}
		sharing := store.SharingShared
		switch {
		case d.Locked && d.below && d.Tool == "": // it does not run what writes there
			sharing = store.SharingWaiting
		case d.Locked:
			sharing = store.SharingLocked
		}
		if !d.below {
			x.r.use(x.ctx, n, cache.Mount{ID: d.cache, Everywhere: d.carried})
		}
		c, err := x.openCache(d.cache, sharing, func(dir string) error { return x.fillWarm(n, dir, d) })
		if err != nil {
			return fmt.Errorf("mounting the cache of %s at %s: %w", d.Tool, d.Dir, err)
		}
		x.caches[d.cache] = c
		x.spec.Mounts = append(x.spec.Mounts, sandbox.Mount{Dest: d.Dir, Bind: c.Dir, Mapped: true, Above: &sandbox.Owner{UID: d.uid, GID: d.gid}})
	}
	return x.sameWarm()
}

// fillWarm begins a warm directory: with the directories that the step's filesystem has there, or as one of the step's user.
func (x *execution) fillWarm(n *node, dir string, d warmed) error {
	tree, err := x.r.Tree(x.ctx, x.inputs[x.op.Mounts[rootMount(x.op)].Input], store.NeedContent)
	if err != nil {
		return err
	}
	if _, err := tree.Lstat(strings.TrimPrefix(d.real, "/")); err == nil {
		return x.r.Engine.opt.Store.FillCache(dir, tree, d.real)
	}
	w, err := x.r.Engine.opt.Store.MountWriter(dir)
	if err != nil {
		return err
	}
	return errors.Join(w.Add(&layer.Entry{Path: ".", Mode: unix.S_IFDIR | 0o755, UID: uint32(d.uid), GID: uint32(d.gid)}), w.Close())
}

// rootMount is the number of the mount that is the root filesystem of a step; -1: there is none.
func rootMount(op *pb.ExecOp) int {
	return slices.IndexFunc(op.GetMounts(), func(m *pb.Mount) bool { return m.Dest == pb.RootMount })
}
