package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/moby/sys/capability"
	"github.com/moby/sys/user"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/sandbox/initproc"
)

// placedBundle describes a process that runs in place: of a container it has no more than that. root is where its root filesystem is.
func placedBundle(spec *Spec, u *user.ExecUser, root string) (*bundle, error) {
	process, err := ociProcess(spec, u)
	if err != nil {
		return nil, err
	}
	process.ApparmorProfile = "" // it has the container's
	if os.Geteuid() != 0 && !slices.ContainsFunc(process.Env, func(kv string) bool { return strings.HasPrefix(kv, "GIT_CONFIG_COUNT=") }) {
		// Everything belongs to one user, who is told that it is root: git takes that for somebody else's files.
		process.Env = append(process.Env, "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*")
	}
	own, err := ownCapabilities()
	if err != nil {
		return nil, err
	}
	if !own.Get(capability.EFFECTIVE, capability.CAP_SETPCAP) { // none can be taken from the bounding set
		process.Capabilities.Bounding = nil
		for _, c := range capability.ListKnown() {
			process.Capabilities.Bounding = append(process.Capabilities.Bounding, capName(c))
		}
	}
	b := &bundle{spec: spec, aside: root, ownDev: true, oci: &specs.Spec{Process: process, Linux: &specs.Linux{}}}
	if os.Geteuid() != 0 || oneID() {
		b.owned = b.ownedHere()
	}
	return b, nil
}

// scoped reports whether the process and what it starts can have no more rights by what they execute, setuid programs among
// it, which is the condition for a domain and a filter of their own. Root has nothing of such programs.
func scoped(b *bundle) bool {
	if b.oci.Process.User.UID == 0 || os.Geteuid() != 0 || b.spec.Network == NetworkNone {
		return true
	}
	none, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
	return err == nil && none == 1
}

// start runs a process in the root directory as it is, and returns when nothing of it is left.
func (r *placeRunner) start(ctx context.Context, b *bundle, lock int, streams IO, started func()) error {
	var filter []byte
	var err error
	domain := scoped(b)
	switch {
	case b.spec.Network == NetworkNone:
		filter, err = r.silent()
	case domain:
		filter, err = r.filter()
	}
	if err != nil {
		return err
	}
	w, err := wire(b.spec.Terminal, streams, false)
	if err != nil {
		return err
	}
	defer w.close()
	for i, f := range w.ends {
		b.given[i] = f != nil
	}
	calls, err := b.callsInPlace(filter)
	if err != nil {
		return err
	}
	message, err := calls.Message()
	if err != nil {
		return fmt.Errorf("starting the process: %w", err)
	}
	g, err := b.startGuardian(w, lock, domain)
	if err != nil {
		return fmt.Errorf("starting the process: %w", err)
	}
	killed := make(chan struct{})
	stopKilling := context.AfterFunc(ctx, func() {
		g.Kill()
		close(killed)
	})
	err = g.Send(message)
	if err == nil {
		if b.spec.Terminal {
			w.fetch(g.Socket())
		}
		if err = b.supervise(g.Socket()); err == nil {
			err = startError(b.spec, &calls.Calls, g.Executed())
		}
	} else {
		err = fmt.Errorf("starting the process: %w", errors.Join(g.Executed(), err))
	}
	if !stopKilling() {
		<-killed
	}
	if err != nil {
		g.Kill()
		_, werr := g.Wait(func() {})
		return errors.Join(err, werr)
	}
	if started != nil {
		started()
	}
	stop := forward(ctx, streams, w, func(sig unix.Signal) {
		if sig == unix.SIGKILL && ctx.Err() != nil {
			g.Kill()
			return
		}
		g.Signal(sig)
	})
	ws, err := g.Wait(stop)
	streams.used(g.PID, &g.Usage)
	err = errors.Join(err, b.owned.end())
	w.drain(ctx)
	switch {
	case err != nil:
		return err
	case ws.Exited() && ws.ExitStatus() == 0:
		return nil
	}
	return b.exitError(ws)
}

// startGuardian starts the guardian with the process's streams.
func (b *bundle) startGuardian(w *wires, lock int, domain bool) (*initproc.Guardian, error) {
	defer w.started()
	null, err := openFile("/dev/null", unix.O_RDWR)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	var files [3]int
	for i, f := range w.ends {
		files[i] = null.fd
		if f != nil {
			files[i] = f.fd
		}
	}
	return initproc.StartGuardian(files, lock, domain)
}

// callsInPlace are those of a process that runs in place.
func (b *bundle) callsInPlace(filter []byte) (*inside, error) {
	in := &inside{b: b, trees: map[string]*initproc.Call{}}
	p := b.oci.Process
	in.Add("starting a session", unix.SYS_SETSID)
	in.signals()
	for _, l := range p.Rlimits {
		number := rlimitNumbers[strings.TrimPrefix(l.Type, "RLIMIT_")]
		in.Add("setting the limit "+strings.ToLower(l.Type), unix.SYS_PRLIMIT64, 0, number, in.Words(int(l.Soft), int(l.Hard)), 0)
	}
	in.Add("setting the umask", unix.SYS_UMASK, 0o022)
	in.streams()
	if b.aside != "/" {
		in.Add(rootWhat, unix.SYS_CHROOT, b.aside)
	}
	in.Add("changing to /", unix.SYS_CHDIR, "/")
	if os.Geteuid() != 0 {
		in.becomeSame(p, filter)
		return in, nil
	}
	return in, in.become(p, filter)
}

// becomeSame has the process execute its program as the user that slipway is, who may be nobody else. It is told that it is root.
func (in *inside) becomeSame(p *specs.Process, filter []byte) {
	in.confine(filter)
	in.supervised()
	in.Add(cwdWhat+p.Cwd, unix.SYS_CHDIR, p.Cwd)
	if p.NoNewPrivileges {
		in.Add("giving up new privileges", unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
	}
	in.execute(p)
}
