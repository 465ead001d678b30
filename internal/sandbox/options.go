package sandbox

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"

	"github.com/slipway-build/slipway/internal/sandbox/initproc"
)

// Options choose how processes are run.
type Options struct {
	// StateDir is a scratch directory, made if missing. Each run has a subdirectory there, named
	// by its [Spec.ID] and gone when Run returns; after a crash it is left with nothing in it but
	// an empty directory, and may be deleted.
	StateDir string
	// RuntimeBinary is an OCI runtime, such as runc, by its path or its name in PATH. "" is
	// this program itself. If this program is killed with SIGKILL, a runtime
	// binary's containers die too, but their empty cgroups stay.
	RuntimeBinary string
	// Network is what [NetworkBridge] is; "" is [WorkerAuto].
	Network WorkerNetwork
	// FilterFile is where the compiled seccomp filter is kept for later processes. Only who may write to the layers may write to its directory. "" is nowhere.
	FilterFile string
	// InPlace: run where nothing can be mounted. The other options but StateDir and FilterFile mean nothing then.
	InPlace *InPlace
}

// Init becomes a process that works beside containers if this process was started to be that;
// otherwise it returns at once. Importing this package is enough, its
// initialization does the same: the call only makes it visible in main.
func Init() { initproc.Run() }

// ErrCommandNotFound and ErrCommandNotExecutable are the reasons why a program of the root
// filesystem was not started, for errors.Is.
var (
	ErrCommandNotFound      = errors.New("command not found")
	ErrCommandNotExecutable = errors.New("command is not executable")
)

// New returns a runner. Processes of one runner, and of any number of runners on the same
// StateDir, run independently of each other.
func New(opt Options) (Runner, error) {
	if opt.StateDir == "" {
		return nil, errors.New("making a sandbox: no state directory given")
	}
	switch opt.Network {
	case "":
		opt.Network = WorkerAuto
	case WorkerAuto, WorkerBridge, WorkerHost:
	default:
		return nil, fmt.Errorf("making a sandbox: unknown network type %q: want %s, %s or %s", opt.Network, WorkerAuto, WorkerBridge, WorkerHost)
	}
	r := &runner{networks: &networks{kind: opt.Network}, ids: sync.OnceValues(newIDMap)}
	if err := os.MkdirAll(opt.StateDir, 0o711); err != nil {
		return nil, fmt.Errorf("making the sandbox's state directory: %w", err)
	}
	// Runtimes insist on a root path without symbolic links.
	dir, err := filepath.Abs(opt.StateDir)
	if err != nil {
		return nil, fmt.Errorf("finding the sandbox's state directory: %w", err)
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return nil, fmt.Errorf("finding the sandbox's state directory: %w", err)
	}
	if opt.InPlace != nil {
		opt.StateDir = dir
		return newInPlace(opt)
	}
	if opt.RuntimeBinary == "" {
		if !seccompCompiled {
			return nil, errors.New("making a sandbox: this program was built without seccomp; build it with the tag seccomp, or give an OCI runtime")
		}
		openCgroups()
		setDevices()
		l := &linked{filter: newFilter(opt.FilterFile)}
		r.stateDir, r.prepare, r.guard, r.execute, r.exec = dir, l.prepare, l.guard, l.run, l.exec
		return r, nil
	}
	path, err := exec.LookPath(opt.RuntimeBinary)
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		return nil, fmt.Errorf("finding the OCI runtime: %w", err)
	}
	e := &external{path: path}
	r.ids = func() (*idMap, error) {
		return nil, errors.New("making a user namespace: only the runtime that is linked in has it: leave --runtime out, or --userns=host does without")
	}
	r.stateDir, r.prepare, r.guard, r.execute, r.exec = dir, func() func() { return func() {} }, e.guard, e.run, e.exec
	r.foreign = true
	return r, nil
}
