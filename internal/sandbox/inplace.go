package sandbox

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/sandbox/inplace"
	"github.com/slipway-build/slipway/internal/sandbox/owners"
)

// InPlace says how processes are run where nothing can be mounted: in the root filesystem of the container that this process
// is in, see package inplace. They are not isolated from it, and run one at a time.
type InPlace struct {
	// Pinned are absolute paths of what this process needs while another one runs: its store, contexts, settings.
	Pinned []string
}

// InPlaceDir is where root filesystems are meanwhile, on the filesystem of "/".
const InPlaceDir = "/.slipway"

// placeRunner implements [Runner] in place.
type placeRunner struct {
	machine *inplace.Machine
	filter  func() ([]byte, error)
	silent  func() ([]byte, error) // the filter of who has no network

	mu      sync.Mutex
	running map[string]*placedRun
}

// placedRun is a container whose first process runs.
type placedRun struct {
	spec *Spec
	root string
	lock int
	mu   sync.Mutex
	over bool
	all  sync.WaitGroup // of further processes
	end  context.Context
}

// newInPlace makes a runner that runs in place.
func newInPlace(opt Options) (Runner, error) {
	// Nobody looks into this process but who may trace everything.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return nil, os.NewSyscallError("prctl", err)
	}
	pinned := append([]string{opt.StateDir}, opt.InPlace.Pinned...)
	if wd, err := os.Getwd(); err == nil {
		pinned = append(pinned, wd)
	}
	placed.Lock()
	defer placed.Unlock()
	if placed.runner != nil {
		placed.runner.machine.Pin(pinned...)
		return placed.runner, nil
	}
	m, err := inplace.Open(context.Background(), inplace.Options{Root: "/", Dir: InPlaceDir, Pinned: pinned, Before: loadHostFiles})
	if err != nil {
		return nil, err
	}
	placed.runner = &placeRunner{machine: m, filter: newFilter(opt.FilterFile), silent: sync.OnceValues(silentFilter), running: map[string]*placedRun{}}
	return placed.runner, nil
}

// loadHostFiles reads what is read once in a process, and is to be the container's own: a step may have other certificates.
func loadHostFiles() {
	_, _ = x509.SystemCertPool() // whoever needs it gets the error
}

// placed is the runner of this process: there is one "/", and what was unpacked for one user of it the next one has, too.
var placed struct {
	sync.Mutex
	runner *placeRunner // nil before it is made
}

// closePlaced removes what the runner keeps.
func closePlaced() {
	placed.Lock()
	defer placed.Unlock()
	if placed.runner != nil {
		_ = placed.runner.machine.Close() // otherwise the next slipway removes it
		placed.runner = nil
	}
}

// checkInPlace refuses what cannot be had in place, and tells what is left out.
func checkInPlace(spec *Spec, notice func(string)) error {
	const how = "without isolation (--isolation=none) "
	switch {
	case spec.Insecure:
		return errors.New(how + "there are no other rights than the container's: a privileged step needs another mode")
	case spec.UserNS:
		return errors.New(how + "there are no user namespaces: leave --userns out")
	case len(spec.Sysctls) > 0, spec.ownSeccomp():
		return errors.New(how + "there are no sysctls and no seccomp profiles of a container's own")
	}
	if notice != nil && (spec.hasCgroup() || spec.CgroupPath != "") {
		notice(how + "the limits of resources are those of the container alone")
	}
	return nil
}

// Run implements [Runner].
func (r *placeRunner) Run(ctx context.Context, spec *Spec, streams IO) (err error) {
	if err := check(spec); err != nil {
		return fmt.Errorf("running a process: %w", err)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := checkInPlace(spec, streams.Notice); err != nil {
		return fmt.Errorf("running a process: %w", err)
	}
	if spec.Waits {
		return r.runAside(ctx, spec, streams)
	}
	lower, err := probeLayers(spec.Root)
	if err != nil {
		return err
	}
	t, err := r.machine.Tree(lower)
	if err != nil {
		return err
	}
	p := &placing{r: r, spec: spec, streams: streams, root: "/"}
	defer func() {
		if spec.Root.Final && err == nil {
			t.Release()
		} else {
			t.Drop() // its layers can change yet, or are none
		}
		err = errors.Join(err, p.close())
	}()
	if err := p.prepare(); err != nil {
		return err
	}
	view, err := r.machine.Enter(ctx, t)
	if err != nil {
		return err
	}
	err = p.run(ctx, view)
	if lerr := view.Leave(); lerr != nil {
		return errors.Join(lerr, err)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var exit *ExitError
	if (err == nil || errors.As(err, &exit)) && spec.Root.Upper != "" {
		view.Owned(p.owned())
		if serr := t.Save(spec.Root.Lower, spec.Root.Upper, view); serr != nil {
			return serr
		}
		if serr := p.save(); serr != nil {
			return serr
		}
	}
	return err
}

// placing is one run.
type placing struct {
	r       *placeRunner
	spec    *Spec
	streams IO
	root    string        // where its root filesystem is
	mounts  []mountedTree // of the spec's mounts that show layers
	memory  string        // a directory in memory
	sockets []net.Listener
	process *bundle // once it is known
	// standsFor are directories of somebody else's, and what they stand for.
	standsFor map[inplace.Inode]layer.Record
}

// mountedTree is what a mount shows.
type mountedTree struct {
	index int
	tree  *inplace.Tree
	path  string
}

// prepare makes what takes long, while others may run.
func (p *placing) prepare() error {
	for i, m := range p.spec.Mounts {
		if m.Root == nil {
			continue
		}
		lower, err := probeLayers(*m.Root)
		if err != nil {
			return err
		}
		if m.Root.Final && filepath.Join("/", m.Selector) != "/" {
			return fmt.Errorf("mount at %s: without isolation a part of a result cannot be written to", m.Dest)
		}
		t, path, err := p.r.machine.Mounted(lower, m.Selector)
		if err != nil {
			return fmt.Errorf("mount at %s: %w", m.Dest, err)
		}
		p.mounts = append(p.mounts, mountedTree{i, t, path})
	}
	return nil
}

// owned tells what the process said of owners where there are not enough IDs.
func (p *placing) owned() (layer.Owner, []layer.LinkRecord) {
	if p.process == nil || p.process.owned == nil {
		return layer.Owner{}, nil
	}
	return p.process.owned.first, p.process.owned.links
}

// save writes the layers of mounts.
func (p *placing) save() error {
	for _, mt := range p.mounts {
		root := p.spec.Mounts[mt.index].Root
		if root.Upper == "" || !root.Final {
			continue
		}
		if err := mt.tree.Save(root.Lower, root.Upper, nil); err != nil {
			return err
		}
	}
	return nil
}

func (p *placing) close() error {
	for _, mt := range p.mounts {
		mt.tree.Drop()
	}
	var errs []error
	for _, l := range p.sockets {
		errs = append(errs, l.Close())
	}
	if p.memory != "" {
		errs = append(errs, os.RemoveAll(p.memory))
	}
	return errors.Join(errs...)
}

// run runs the process in the view.
func (p *placing) run(ctx context.Context, view *inplace.View) error {
	if err := p.checkWorkdir(view); err != nil {
		return err
	}
	if err := p.mount(view); err != nil {
		return fmt.Errorf("preparing the root filesystem: %w", err)
	}
	if err := view.Settle(); err != nil {
		return err
	}
	if len(view.Hidden) > 0 && p.streams.Notice != nil {
		p.streams.Notice("the container has mounts of its own at these paths, which hide what the image has there: " + strings.Join(view.Hidden, ", "))
	}
	p.standsFor = view.StandsFor
	return p.execute(ctx, view.Lock())
}

// execute runs the process in its root filesystem, and returns when nothing of it is left. lock is open as long.
func (p *placing) execute(ctx context.Context, lock int) error {
	b, err := p.bundle()
	if err != nil {
		return err
	}
	if b.owned != nil {
		for at, r := range p.standsFor {
			b.owned.fixed[owners.Inode(at)] = r
		}
	}
	p.process = b
	life, end := context.WithCancel(ctx)
	run := &placedRun{spec: p.spec, root: p.root, lock: lock, end: life}
	started := func() {
		p.r.mu.Lock()
		p.r.running[p.spec.ID] = run
		p.r.mu.Unlock()
		if p.streams.Started != nil {
			p.streams.Started()
		}
	}
	err = p.r.start(ctx, b, run.lock, p.streams, started)
	p.r.mu.Lock()
	delete(p.r.running, p.spec.ID)
	p.r.mu.Unlock()
	run.mu.Lock()
	run.over = true
	run.mu.Unlock()
	end()
	run.all.Wait()
	return err
}

// bundle describes the process.
func (p *placing) bundle() (*bundle, error) {
	root, err := openRoot(p.root)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	u, err := lookupUser(root, p.spec.User)
	if err == nil {
		err = addGroups(root, u, p.spec.Groups)
	}
	if err != nil {
		return nil, err
	}
	cwd := filepath.Join("/", p.spec.Cwd)
	if err := makeOwned(root, cwd, u.Uid, u.Gid); err != nil {
		return nil, fmt.Errorf("making working directory %s: %w", cwd, err)
	}
	return placedBundle(p.spec, u, p.root)
}
