package engine

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/moby/buildkit/solver/pb"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/sandbox"
	"github.com/slipway-build/slipway/internal/secrets"
	"github.com/slipway-build/slipway/internal/store"
	"github.com/slipway-build/slipway/internal/terminal"
)

// execution is one RUN while it is prepared, run and committed.
type execution struct {
	r      *Run
	ctx    context.Context
	work   work
	op     *pb.ExecOp
	inputs []Value
	spec   sandbox.Spec
	// platform is the one that its programs are for.
	platform ocispec.Platform
	// outputs are the drafts that become layers, by output index, with what they stand on.
	outputs map[int64]execOutput
	// mounts are what mounts of files show, by their index in the operation.
	mounts map[int]FailedMount
	// lower are the directories that mounts show which show no input.
	lower map[*pb.Mount][]string
	// caches are the cache mounts that are open, by ID: an exec may mount one twice.
	caches map[string]*store.Cache
	// hidden are the secrets that the step was given.
	hidden [][]byte
	drafts []*store.Draft
	undo   []func()

	process Process   // what is told of it
	began   time.Time // to run
	printed tail      // the end of its output
	mounted bool      // it saw an overlay, which was traced if that was asked for
	dropped bool      // what it changed was wanted by nobody when it ended
}

type execOutput struct {
	base  layer.Snapshot
	draft *store.Draft
}

// exec runs a process. The root and every writable mount with an output become layers.
func (r *Run) exec(ctx context.Context, w work, n *node, op *pb.ExecOp, inputs []Value) ([]Value, error) {
	x := &execution{
		r: r, ctx: ctx, work: w, op: op, inputs: inputs, outputs: map[int64]execOutput{}, mounts: map[int]FailedMount{}, caches: map[string]*store.Cache{},
	}
	defer x.close()
	began := time.Now()
	if err := x.prepare(n); err != nil {
		return nil, err
	}
	x.process.Prepare = time.Since(began)
	if w.process != nil {
		*w.process = &x.process
	}
	stdout, flushOut := secrets.Redact(io.MultiWriter(w.step.Stdout(), &x.printed), x.hidden)
	stderr, flushErr := secrets.Redact(io.MultiWriter(w.step.Stderr(), &x.printed), x.hidden)
	notice := func(text string) {
		if r.screen.notice(text) {
			fmt.Fprintf(stderr, "WARNING: %s\n", text)
		}
	}
	x.began = time.Now()
	err := r.Engine.opt.Runner.Run(ctx, &x.spec, sandbox.IO{
		Stdout: stdout, Stderr: stderr, Notice: notice,
		Used: func(u sandbox.Usage) { x.process.Usage = &u }, Mounted: x.traceFiles(n, notice), Wanted: x.wanted,
	})
	if err == nil {
		x.untraced(notice)
	}
	flushOut()
	flushErr()
	x.process.Run = time.Since(x.began)
	if err := x.accept(foreign(x.platform, err)); err != nil {
		return nil, x.failed(n, err)
	}
	ended := time.Now()
	defer func() { x.process.Commit = time.Since(ended) }()
	return x.commit()
}

func (x *execution) close() {
	for _, f := range slices.Backward(x.undo) {
		f()
	}
	for _, d := range x.drafts {
		d.Abort()
	}
}

// draft makes a directory that goes away with the execution.
func (x *execution) draft() (*store.Draft, error) {
	d, err := x.r.Engine.opt.Store.NewLayer()
	if err == nil {
		x.drafts = append(x.drafts, d)
	}
	return d, err
}

// prepare makes the sandbox's spec of the operation.
func (x *execution) prepare(n *node) error {
	x.platform = x.r.platform(n.v.Op.Platform)
	meta := x.op.Meta
	// A process ID would not do for the name of a run: in a pod it is the same every time, and one
	// process may run the same vertex for two builds.
	x.spec = sandbox.Spec{
		ID:           "slipway-" + n.v.Digest.Encoded()[:12] + "-" + strings.ToLower(rand.Text()[:10]),
		Args:         meta.Args,
		Env:          meta.Env,
		Cwd:          meta.Cwd,
		User:         meta.User,
		Hostname:     meta.Hostname,
		Network:      x.network(),
		CgroupPath:   meta.CgroupParent,
		Insecure:     x.op.Security == pb.SecurityMode_INSECURE,
		KeepCaps:     x.op.Security == pb.SecurityMode_INSECURE,
		Resources:    resources(n.v.Meta.GetLinuxResources()),
		MaxProcesses: x.r.maxProcesses(),
	}
	if !x.spec.Insecure {
		x.spec.AppArmor, x.spec.UserNS = x.r.opt.AppArmor, x.r.opt.UserNS
	}
	for _, h := range meta.ExtraHosts {
		x.spec.ExtraHosts = append(x.spec.ExtraHosts, sandbox.HostEntry{Host: h.Host, IP: h.IP})
	}
	for _, u := range meta.Ulimit {
		x.spec.Ulimits = append(x.spec.Ulimits, sandbox.Ulimit{Name: u.Name, Soft: u.Soft, Hard: u.Hard})
	}
	if p := meta.ProxyEnv; p != nil {
		x.spec.Env = append(slices.Clone(meta.Env), proxyEnv(p)...)
	}
	if err := x.secretEnv(); err != nil {
		return err
	}
	for _, m := range inLockOrder(slices.Concat(x.op.Mounts, x.namedWarm())) {
		if err := x.mount(n, m); err != nil {
			return err
		}
	}
	if err := x.mountWarm(n); err != nil {
		return err
	}
	// Mounts nest by path: "/a" comes before "/a/b" whatever the order of the options.
	slices.SortStableFunc(x.spec.Mounts, func(a, b sandbox.Mount) int {
		return strings.Count(filepath.Clean(a.Dest), "/") - strings.Count(filepath.Clean(b.Dest), "/")
	})
	return nil
}

// defaultMaxProcesses is enough for the largest compilation, and not enough to use up a machine.
const defaultMaxProcesses = 16384

func (r *Run) maxProcesses() int64 {
	if r.opt.MaxProcesses == 0 {
		return defaultMaxProcesses
	}
	return max(r.opt.MaxProcesses, 0)
}

// resources are a step's limits. They are in no key, as in BuildKit.
func resources(r *pb.LinuxResources) sandbox.Resources {
	return sandbox.Resources{
		Memory: r.GetMemory(), MemorySwap: r.GetMemorySwap(),
		CPUShares: r.GetCpuShares(), CPUPeriod: r.GetCpuPeriod(), CPUQuota: r.GetCpuQuota(),
		CpusetCpus: r.GetCpusetCpus(), CpusetMems: r.GetCpusetMems(),
	}
}

func (x *execution) network() sandbox.Network {
	switch x.op.Network {
	case pb.NetMode_HOST:
		return sandbox.NetworkHost
	case pb.NetMode_NONE:
		return sandbox.NetworkNone
	}
	return sandbox.NetworkBridge
}

func proxyEnv(p *pb.ProxyEnv) []string {
	var env []string
	for _, kv := range [][2]string{
		{"HTTP_PROXY", p.HttpProxy}, {"HTTPS_PROXY", p.HttpsProxy}, {"FTP_PROXY", p.FtpProxy},
		{"NO_PROXY", p.NoProxy}, {"ALL_PROXY", p.AllProxy},
	} {
		if kv[1] != "" {
			env = append(env, kv[0]+"="+kv[1], strings.ToLower(kv[0])+"="+kv[1])
		}
	}
	return env
}

// inLockOrder puts cache mounts last, in the order of their IDs: two execs that lock the same
// caches in two orders would wait for each other.
func inLockOrder(mounts []*pb.Mount) []*pb.Mount {
	rank := func(m *pb.Mount) string {
		if m.MountType != pb.MountType_CACHE {
			return ""
		}
		return "cache " + m.CacheOpt.GetID()
	}
	sorted := slices.Clone(mounts)
	slices.SortStableFunc(sorted, func(a, b *pb.Mount) int { return strings.Compare(rank(a), rank(b)) })
	return sorted
}

// mount adds one mount of a node to the spec.
func (x *execution) mount(n *node, m *pb.Mount) error {
	switch {
	case m.Dest == pb.RootMount && m.MountType != pb.MountType_BIND:
		return fmt.Errorf("invalid mount type %s for %s", m.MountType, m.Dest)
	case m.Dest == pb.RootMount:
		root, err := x.root(m)
		if err == nil {
			x.spec.Root = *root
		}
		return err
	case filepath.Clean(x.dest(m)) == pb.RootMount: // over which all others would be
		return fmt.Errorf("invalid mount at %q: the root filesystem is there", m.Dest)
	case m.MountType == pb.MountType_BIND:
		root, err := x.root(m)
		if err != nil {
			return err
		}
		x.spec.Mounts = append(x.spec.Mounts, sandbox.Mount{Dest: x.dest(m), ReadOnly: m.Readonly, Root: root, Selector: m.Selector})
		return nil
	case m.MountType == pb.MountType_TMPFS:
		x.spec.Mounts = append(x.spec.Mounts, sandbox.Mount{Dest: x.dest(m), ReadOnly: m.Readonly, Tmpfs: &sandbox.Tmpfs{Size: m.TmpfsOpt.GetSize()}})
		return nil
	case m.MountType == pb.MountType_CACHE:
		return x.cacheMount(n, m)
	case m.MountType == pb.MountType_SECRET:
		return x.secretMount(m)
	case m.MountType == pb.MountType_SSH:
		return x.sshMount(m)
	}
	return fmt.Errorf("mount type %s is not supported", m.MountType)
}

// dest is where a mount is; a relative path is one below the working directory.
func (x *execution) dest(m *pb.Mount) string {
	if filepath.IsAbs(m.Dest) {
		return m.Dest
	}
	return filepath.Join("/", x.op.Meta.Cwd, m.Dest)
}

func (x *execution) input(m *pb.Mount) (Value, error) {
	if m.Input < 0 {
		return Value{}, nil
	}
	if int(m.Input) >= len(x.inputs) {
		return Value{}, fmt.Errorf("mounting %s: input %d of %d", m.Dest, m.Input, len(x.inputs))
	}
	return x.inputs[m.Input], nil
}

// root makes the layers of a mount, with a new one on top when the mount is writable. Without an
// output that layer is thrown away after the run.
func (x *execution) root(m *pb.Mount) (*sandbox.Root, error) {
	v, err := x.input(m)
	if err != nil {
		return nil, err
	}
	dirs, copied, err := x.layers(v)
	if err != nil {
		return nil, err
	}
	dirs = append(dirs, x.lower[m]...)
	root := &sandbox.Root{Lower: dirs}
	shown := FailedMount{Lower: dirs, Layers: v.Snapshot, Copied: copied}
	if m.Readonly && m.Output == int64(pb.SkipOutput) && len(dirs) > 0 {
		x.shows(m, shown)
		return root, nil
	}
	draft, err := x.draft()
	if err != nil {
		return nil, err
	}
	shown.Upper, shown.Changed = draft.FS, draft
	x.shows(m, shown)
	root.Upper, root.Work = draft.FS, draft.Work
	if m.Output != int64(pb.SkipOutput) {
		if v.local() {
			return nil, fmt.Errorf("mounting %s: a build context cannot be an output", m.Dest)
		}
		x.outputs[m.Output] = execOutput{base: v.Snapshot, draft: draft}
		root.Final = true
	}
	return root, nil
}

// layers returns the layer directories of a value. The files of a local source are copied into one
// that is gone after the run: they may be filtered, and the process may run for longer than the
// user leaves them alone.
func (x *execution) layers(v Value) (dirs []string, copied *store.Draft, err error) {
	if !v.local() {
		dirs, err = x.r.Engine.opt.Store.Dirs(x.ctx, v.Snapshot)
		return dirs, nil, err
	}
	if copied, err = x.draft(); err != nil {
		return nil, nil, err
	}
	w, err := x.r.Engine.opt.Store.DirWriter(copied.FS)
	if err != nil {
		return nil, nil, err
	}
	return []string{copied.FS}, copied, errors.Join(layer.WriteTree(v.tree, w), w.Close())
}

// wanted reports whether there is a use for what a process has changed that has ended like this: in a layer, or for who looks at what failed.
func (x *execution) wanted(end *sandbox.ExitError) bool {
	x.dropped = x.accept(end) != nil && (x.work.keep == nil || !x.work.keep.Load())
	return !x.dropped
}

// accept decides whether the way a process ended is a success.
func (x *execution) accept(err error) error {
	code := 0
	var exit *sandbox.ExitError
	switch {
	case err != nil && x.ctx.Err() != nil: // the cause may be the exit of another process
		return context.Cause(x.ctx)
	case errors.As(err, &exit):
		code = exit.Code
	case err != nil: // it was not even started
		return x.incomplete(err)
	}
	valid := x.op.Meta.ValidExitCodes
	if len(valid) == 0 {
		valid = []int32{0}
	}
	if slices.Contains(valid, int32(code)) {
		return nil
	}
	if err == nil {
		err = fmt.Errorf("exit code: %d", code)
	}
	if full := x.r.Engine.opt.Store.Full(); full != nil { // which is likely why
		err = fmt.Errorf("%w: %w", err, full)
	}
	return x.incomplete(err)
}

// maxCommand is how many letters of a process an error has. The lines of the Dockerfile that stand above it have all.
const maxCommand = 80

// incomplete is the error of a process in BuildKit's words.
func (x *execution) incomplete(err error) error {
	command := strings.Join(x.op.Meta.Args, " ")
	if utf8.RuneCountInString(command) > maxCommand {
		command = terminal.Short(command, maxCommand)
	}
	return fmt.Errorf("process %q did not complete successfully: %w", command, err)
}

// commit makes the drafts layers, of what the process changed.
func (x *execution) commit() ([]Value, error) {
	var values []Value
	for index, out := range x.outputs {
		base, err := x.r.Tree(x.ctx, Value{Snapshot: out.base}, store.NeedContent)
		if err != nil {
			return nil, err
		}
		if err := layer.DropUnchanged(out.draft.FS, x.r.Engine.opt.Store.Flavor(), base); err != nil {
			return nil, err
		}
		id, err := out.draft.Commit(x.ctx)
		if err != nil {
			return nil, err
		}
		for int64(len(values)) <= index {
			values = append(values, Value{})
		}
		values[index] = Value{Snapshot: append(slices.Clone(out.base), id)}
	}
	return values, nil
}
