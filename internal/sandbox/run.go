package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// runner prepares everything that is the same for all runtimes.
type runner struct {
	stateDir string // absolute, without symbolic links
	// prepare begins with what takes long, on other threads; its result waits for them.
	prepare func() (wait func())
	// guard sees to it that what the calling thread starts can open no devices but harmless ones,
	// and reports whether it does; if not, filesystems are to be mounted nodev. leave ends it.
	guard func(*Spec) (leave func() error, ok bool)
	// execute runs a prepared bundle on the calling thread, whose children see its mounts.
	execute func(context.Context, *bundle, IO) error
	// exec runs one more process in a container that execute runs.
	exec func(ctx context.Context, id string, p *Process, streams IO) error
	// foreign: execute is an OCI runtime's, which has ways of its own.
	foreign  bool
	networks *networks
	ids      func() (*idMap, error) // of user namespaces, made once
}

// Run implements [Runner].
func (r *runner) Run(ctx context.Context, spec *Spec, streams IO) (err error) {
	if err := check(spec); err != nil {
		return fmt.Errorf("running a process: %w", err)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var mapping *idMap
	if spec.UserNS {
		if mapping, err = r.ids(); err != nil {
			return err
		}
	}
	defer r.prepare()()
	ctx, end := context.WithCancelCause(ctx) // a process whose network broke may wait for ever
	defer end(nil)
	conn, err := r.networks.begin(spec, end)
	if err != nil {
		return err
	}
	defer func() { err = conn.close(ctx, err) }()
	dir := filepath.Join(r.stateDir, spec.ID)
	if err := os.Mkdir(dir, 0o711); err != nil {
		return fmt.Errorf("making the directory of run %s: %w", spec.ID, err)
	}
	// This thread never sees the mounts inside of the directory: nothing that is mounted can be
	// removed by accident.
	defer func() {
		if rerr := removeRun(dir); rerr != nil && err == nil {
			err = fmt.Errorf("cleaning up after run %s: %w", spec.ID, rerr)
		}
	}()
	return inMountNamespace(func() (err error) {
		leave, guarded := r.guard(spec)
		defer func() {
			if lerr := leave(); err == nil {
				err = lerr
			}
		}()
		b, err := newBundle(dir, spec, mapping, conn, bundleOptions{guarded: guarded, foreign: r.foreign, watched: streams.Mounted != nil})
		defer func() { err = errors.Join(err, b.ends.close()) }()
		if err != nil {
			if !errors.As(err, new(*userError)) { // whose words are Docker's
				err = fmt.Errorf("preparing the root filesystem: %w", err)
			}
			return errors.Join(err, b.owned.finish(false), b.bringBack(false), b.close())
		}
		return r.runBundle(ctx, b, streams)
	})
}

// runBundle runs a bundle that is ready, and closes it.
func (r *runner) runBundle(ctx context.Context, b *bundle, streams IO) error {
	if streams.Notice != nil {
		if len(b.elsewhere) > 0 {
			streams.Notice(elsewhereNotice)
		}
		if notice := r.networks.notice(); b.spec.sharesNetwork && notice != "" {
			streams.Notice(notice)
		}
	}
	ended := streams.mounted(b)
	err := r.execute(ctx, b, streams)
	ended()
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	b.tellMemory(err)
	if cerr := b.close(); err == nil {
		err = cerr
	}
	// The caller may take an exit code for a success.
	if err == nil || errors.As(err, new(*ExitError)) {
		if werr := b.ends.wait(ctx); werr != nil {
			err = werr
		}
	}
	wanted := streams.wants(err)
	if ferr := b.owned.finish(wanted); ferr != nil {
		err, wanted = ferr, false
	}
	if berr := b.bringBack(wanted); berr != nil {
		err = berr
	}
	return err
}

// mounted tells of the filesystems of layers whoever wants to know.
func (s *IO) mounted(b *bundle) (ended func()) {
	if s.Mounted == nil || !isOverlay(b.rootfs) {
		return func() {}
	}
	return s.Mounted(b.rootfs, b.layered)
}

// removeRun removes the directory of a run, in which there is nothing but where the scratch filesystem was mounted.
func removeRun(dir string) error {
	scratch := unix.Rmdir(filepath.Join(dir, scratchName))
	if err := unix.Rmdir(dir); err == nil {
		return nil
	} else if scratch == nil || errors.Is(scratch, unix.ENOENT) {
		return &os.PathError{Op: "rmdir", Path: dir, Err: err}
	}
	return &os.PathError{Op: "rmdir", Path: filepath.Join(dir, scratchName), Err: scratch}
}

// check refuses what no runtime could run.
func check(spec *Spec) error {
	switch {
	case spec.ID == "" || strings.Trim(spec.ID, "abcdefghijklmnopqrstuvwxyz0123456789-") != "":
		return fmt.Errorf("invalid id %q: want one or more of a-z, 0-9 and -", spec.ID)
	case len(spec.Args) == 0:
		return errors.New("no command given")
	case spec.Cwd != "" && !filepath.IsAbs(spec.Cwd):
		return fmt.Errorf("working directory %q is not absolute", spec.Cwd)
	case spec.Network != NetworkBridge && spec.Network != NetworkHost && spec.Network != NetworkNone:
		return fmt.Errorf("unknown network %q: want %s, %s or %s", spec.Network, NetworkBridge, NetworkHost, NetworkNone)
	case spec.UserNS && spec.Insecure:
		return errors.New("privileged mode is incompatible with user namespaces: one of the host only, --userns=host, may have it")
	case spec.Root.Upper != "" && spec.Root.Work == "":
		return errors.New("root has an upper directory but no work directory")
	}
	for _, m := range spec.Mounts {
		if err := checkMount(m); err != nil {
			return err
		}
	}
	for _, paths := range []*[]string{spec.MaskedPaths, spec.ReadonlyPaths} {
		if paths != nil {
			if err := CheckProtected(*paths); err != nil {
				return err
			}
		}
	}
	return spec.Resources.check()
}

func checkMount(m Mount) error {
	sources := 0
	for _, given := range []bool{m.Bind != "", m.Root != nil, m.Tmpfs != nil, m.File != nil, m.Socket != nil} {
		if given {
			sources++
		}
	}
	switch {
	case !filepath.IsAbs(m.Dest):
		return fmt.Errorf("mount target %q is not absolute", m.Dest)
	case filepath.Clean(m.Dest) == "/":
		return errors.New("mount target / is the root filesystem itself")
	case sources != 1:
		return fmt.Errorf("mount at %s: want exactly one source, got %d", m.Dest, sources)
	case m.Bind != "" && !filepath.IsAbs(m.Bind):
		return fmt.Errorf("mount at %s: source %q is not absolute", m.Dest, m.Bind)
	case m.Root != nil && m.Root.Upper != "" && m.Root.Work == "":
		return fmt.Errorf("mount at %s: upper directory without a work directory", m.Dest)
	}
	return nil
}
