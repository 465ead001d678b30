package sandbox

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/moby/sys/mountinfo"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/sandbox/inplace"
)

// InPlace says how processes are run where nothing can be mounted: in the root filesystem of the container that this process
// is in, see package inplace. They are not isolated from it, and run one at a time.
type InPlace struct {
	// Dir is where root filesystems are, on the filesystem of "/"; "" is /.slipway.
	Dir string
	// Pinned are absolute paths of what this process needs while another one runs: its store, contexts, settings.
	Pinned []string
	// Force: run also outside of a container, where what is in "/" is somebody's machine.
	Force bool
}

// DefaultInPlaceDir is where root filesystems are if nothing else is said.
const DefaultInPlaceDir = "/.slipway"

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
	lock int
	mu   sync.Mutex
	over bool
	all  sync.WaitGroup // of further processes
	end  context.Context
}

// newInPlace makes a runner that runs in place.
func newInPlace(opt Options) (Runner, error) {
	if !opt.InPlace.Force && !inContainer() {
		return nil, errors.New("making a sandbox: without any isolation steps run in the root filesystem itself, and this does not look like a container: " +
			"use root, or a user namespace (slipway info tells what is missing)")
	}
	// Nobody looks into this process but who may trace everything.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return nil, os.NewSyscallError("prctl", err)
	}
	pinned := append([]string{opt.StateDir}, opt.InPlace.Pinned...)
	if wd, err := os.Getwd(); err == nil {
		pinned = append(pinned, wd)
	}
	dir := cmp.Or(opt.InPlace.Dir, DefaultInPlaceDir)
	placed.Lock()
	defer placed.Unlock()
	r := placed.runners[dir]
	if r != nil {
		r.machine.Pin(pinned...)
		return r, nil
	}
	m, err := inplace.Open(context.Background(), inplace.Options{Root: "/", Dir: dir, Pinned: pinned, Before: loadHostFiles})
	if err != nil {
		return nil, err
	}
	r = &placeRunner{machine: m, filter: newFilter(opt.FilterFile), silent: sync.OnceValues(silentFilter), running: map[string]*placedRun{}}
	placed.runners[dir] = r
	return r, nil
}

// loadHostFiles reads what is read once in a process, and is to be the container's own: a step may have other certificates.
func loadHostFiles() {
	_, _ = x509.SystemCertPool() // whoever needs it gets the error
}

// placed are the runners of this process, by their directories: what one has unpacked the next one has, too.
var placed = struct {
	sync.Mutex
	runners map[string]*placeRunner
}{runners: map[string]*placeRunner{}}

// closePlaced removes what the runners keep.
func closePlaced() {
	placed.Lock()
	defer placed.Unlock()
	for dir, r := range placed.runners {
		_ = r.machine.Close() // otherwise the next slipway removes it
		delete(placed.runners, dir)
	}
}

// inContainer reports whether this process is in a container, as far as that can be told.
func inContainer() bool {
	for _, path := range []string{"/.dockerenv", "/run/.containerenv", "/var/run/secrets/kubernetes.io"} {
		if _, err := os.Lstat(path); err == nil {
			return true
		}
	}
	if os.Getenv("container") != "" || os.Getenv("KUBERNETES_SERVICE_HOST") != "" {
		return true
	}
	// Runtimes hide files there, or make them read-only, by something that is mounted over them.
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter("/proc"))
	return err == nil && slices.ContainsFunc(mounts, func(m *mountinfo.Info) bool {
		return m.Mountpoint != "/proc" && !strings.HasPrefix(m.Mountpoint, "/proc/sys/fs/binfmt_misc")
	})
}

// silentFilter is the seccomp filter of a process without a network: Docker's, but that no sockets can be made which lead out
// of the machine, or to other processes of the container by its loopback.
func silentFilter() ([]byte, error) {
	caps, err := capabilities(false)
	if err != nil {
		return nil, err
	}
	profile, err := seccompFor(caps)
	if err != nil {
		return nil, err
	}
	profile.Syscalls = slices.Clone(profile.Syscalls)
	for i := range profile.Syscalls {
		profile.Syscalls[i].Names = slices.DeleteFunc(slices.Clone(profile.Syscalls[i].Names), func(name string) bool {
			return name == "socket" || name == "socketcall" || strings.HasPrefix(name, "io_uring")
		})
	}
	profile.Syscalls = append(profile.Syscalls, specs.LinuxSyscall{
		Names: []string{"socket"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{{Index: 0, Value: unix.AF_UNIX, Op: specs.OpEqualTo}},
	})
	program, err := compileFilter(profile)
	return append(otherFamilies(), program...), err
}

// otherFamilies is the beginning of a filter that has no address families but local ones, in the words of a machine without
// the others: what only is not permitted some programs do not expect.
func otherFamilies() (program []byte) {
	const (
		load  = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		equal = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	)
	for _, ins := range []unix.SockFilter{
		{Code: load, K: 4}, {Code: equal, K: nativeArch, Jf: 5},
		{Code: load, K: 0}, {Code: equal, K: unix.SYS_SOCKET, Jf: 3},
		{Code: load, K: 16}, {Code: equal, K: unix.AF_UNIX, Jt: 1}, // the lower half of the first argument
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EAFNOSUPPORT)},
	} {
		program = binary.NativeEndian.AppendUint16(program, ins.Code)
		program = append(program, ins.Jt, ins.Jf)
		program = binary.NativeEndian.AppendUint32(program, ins.K)
	}
	return program
}

// nativeArch is the architecture of this program as filters know it.
var nativeArch = map[string]uint32{"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64}[runtime.GOARCH]

// checkInPlace refuses what cannot be had in place, and tells what is left out.
func checkInPlace(spec *Spec, notice func(string)) error {
	const how = "without isolation (--isolation=none) "
	switch {
	case spec.Insecure:
		return errors.New(how + "there are no other rights than the container's: a privileged step needs another mode")
	case spec.UserNS:
		return errors.New(how + "there are no user namespaces: leave --userns out")
	case spec.Waits:
		return errors.New(how + "one process runs at a time, and this one would wait for others: a frontend that is an image needs another mode (leave the line \"# syntax=\" out)")
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
	lower, err := probeLayers(spec.Root)
	if err != nil {
		return err
	}
	t, err := r.machine.Tree(lower)
	if err != nil {
		return err
	}
	p := &placing{r: r, spec: spec, streams: streams}
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
	mounts  []mountedTree // of the spec's mounts that show layers
	memory  string        // a directory in memory
	sockets []net.Listener
	process *bundle // once it is known
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

// run runs the process in the view, and returns when nothing of it is left.
func (p *placing) run(ctx context.Context, view *inplace.View) error {
	if err := p.mount(view); err != nil {
		return fmt.Errorf("preparing the root filesystem: %w", err)
	}
	if err := view.Settle(); err != nil {
		return err
	}
	if len(view.Hidden) > 0 && p.streams.Notice != nil {
		p.streams.Notice("the container has mounts of its own at these paths, which hide what the image has there: " + strings.Join(view.Hidden, ", "))
	}
	b, err := p.bundle()
	if err != nil {
		return err
	}
	p.process = b
	life, end := context.WithCancel(ctx)
	run := &placedRun{spec: p.spec, lock: view.Lock(), end: life}
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
	root, err := openRoot("/")
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
	uid, gid := u.Uid, u.Gid
	if os.Geteuid() != 0 { // what is new is recorded as the user's
		uid, gid = -1, -1
	}
	if err := makeOwned(root, cwd, uid, gid); err != nil {
		return nil, fmt.Errorf("making working directory %s: %w", cwd, err)
	}
	return placedBundle(p.spec, u)
}

// Exec implements [Runner].
func (r *placeRunner) Exec(ctx context.Context, id string, proc *Process, streams IO) error {
	if len(proc.Args) == 0 {
		return errors.New("running a process: no command given")
	}
	if proc.Privileged {
		return errors.New("running a process: without isolation there are no other rights than the container's")
	}
	r.mu.Lock()
	run := r.running[id]
	r.mu.Unlock()
	notRunning := fmt.Errorf("running a process in %s: %w", id, ErrNotRunning)
	if run == nil {
		return notRunning
	}
	run.mu.Lock()
	if run.over {
		run.mu.Unlock()
		return notRunning
	}
	run.all.Add(1)
	run.mu.Unlock()
	defer run.all.Done()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(run.end, func() { cancel(notRunning) })()
	spec := *run.spec
	spec.Args, spec.Env, spec.Cwd, spec.User, spec.Groups, spec.Terminal = proc.Args, proc.Env, proc.Cwd, proc.User, proc.Groups, proc.Terminal
	root, err := openRoot("/")
	if err != nil {
		return err
	}
	u, err := lookupUser(root, spec.User)
	if err == nil {
		err = addGroups(root, u, spec.Groups)
	}
	if err = errors.Join(err, root.Close()); err != nil {
		return err
	}
	b, err := placedBundle(&spec, u)
	if err != nil {
		return err
	}
	err = r.start(ctx, b, run.lock, streams, streams.Started)
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// mount puts everything in place that the spec's mounts show, and what the container's network needs.
func (p *placing) mount(view *inplace.View) error {
	if err := p.files(view); err != nil {
		return err
	}
	trees := map[int]string{}
	for _, mt := range p.mounts {
		trees[mt.index] = mt.path
	}
	for i, m := range p.spec.Mounts {
		var err error
		dest := filepath.Clean(m.Dest)
		switch {
		case m.Tmpfs != nil && dest == "/dev/shm": // which is one
		case m.Tmpfs != nil:
			err = view.Directory(dest, cmp.Or(m.Tmpfs.Mode, 0o1777))
		case m.Root != nil:
			err = view.Bind(dest, trees[i])
		case m.Bind != "":
			err = view.Bind(dest, m.Bind)
		case m.File != nil:
			err = view.Secret(dest, m.File.Data, m.File.Mode, m.File.UID, m.File.GID)
		case m.Socket != nil:
			var path string
			if path, err = p.socket(i, m.Socket); err == nil {
				err = view.Link(dest, path)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// files puts the files there that a container has from outside.
func (p *placing) files(view *inplace.View) error {
	resolv, err := view.Host("etc/resolv.conf")
	if err != nil {
		return err
	}
	own, err := view.Host("etc/hosts")
	if err != nil {
		return err
	}
	for path, text := range map[string]string{"/etc/resolv.conf": resolv, "/etc/hosts": hostsFile(p.spec) + otherHosts(own)} {
		if view.Stays(path) {
			continue // it is the container's own, which is mounted there
		}
		if err := view.File(path, text, 0o644); err != nil {
			return err
		}
	}
	// apt has its downloads be those of a user, and looks whether it has become that one.
	const apt = "/etc/apt/apt.conf.d"
	if os.Geteuid() != 0 && view.Has(apt) {
		if err := view.File(apt+"/zz-slipway", "APT::Sandbox::User \"root\";\n", 0o644); err != nil {
			return err
		}
	}
	if p.spec.HostnameFile && !view.Stays("/etc/hostname") {
		return view.File("/etc/hostname", hostname(p.spec)+"\n", 0o644)
	}
	return nil
}

// otherHosts are the lines of a hosts file that name other machines: the network is the container's, and this process looks
// there too while a step runs.
func otherHosts(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		ip, err := netip.ParseAddr(f[0])
		if err == nil && !ip.IsLoopback() && !ip.IsMulticast() && !ip.IsUnspecified() {
			b.WriteString(strings.Join(f, "\t") + "\n")
		}
	}
	return b.String()
}

// inMemory is a directory of the container's that is in memory, as far as there is one.
const inMemory = "/dev/shm"

// memoryDir makes a directory in memory, for what is to be on no disk.
func (p *placing) memoryDir() (string, error) {
	if p.memory != "" {
		return p.memory, nil
	}
	dir := filepath.Join(inMemory, "slipway-"+rand.Text())
	if err := os.Mkdir(dir, 0o711); err != nil {
		return "", fmt.Errorf("making a directory in memory: %w", err)
	}
	p.memory = dir
	return dir, os.Chmod(dir, 0o711)
}

// socket makes a socket on which this process answers.
func (p *placing) socket(i int, s *Socket) (string, error) {
	dir, err := p.memoryDir()
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, fmt.Sprint(i))
	l, err := net.Listen("unix", path)
	if err != nil {
		return "", err
	}
	p.sockets = append(p.sockets, l)
	uid, gid := s.UID, s.GID
	if os.Geteuid() != 0 {
		uid, gid = -1, -1
	}
	if err := errors.Join(os.Chown(path, uid, gid), os.Chmod(path, os.FileMode(s.Mode&0o777))); err != nil {
		return "", err
	}
	return path, s.Serve(l)
}
