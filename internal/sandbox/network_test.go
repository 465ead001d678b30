package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/network"
)

// greet answers on addr with hello.
func greet(t testing.TB, addr string) (port string) {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "hello\n")
			_ = c.Close()
		}
	}()
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
}

// abstract listens on an abstract Unix socket and returns how /proc/net/unix names it.
func abstract(t testing.TB) string {
	t.Helper()
	name := fmt.Sprintf("@slipway-test-%d", os.Getpid())
	l, err := net.Listen("unix", name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return name
}

// A process with a network of its own reaches the host where Docker's would, and nothing of it
// beside: not its loopback, not its abstract sockets, not its interfaces.
func testBridge(l *lab) {
	everywhere, loopback, socket := greet(l.t, "0.0.0.0:0"), greet(l.t, "127.0.0.1:0"), abstract(l.t)
	spec := l.spec(fmt.Sprintf(`
		nc %[1]s %[2]s </dev/null || echo gateway: $?
		nc 127.0.0.1 %[3]s </dev/null 2>/dev/null && echo loopback
		nc %[1]s %[3]s </dev/null 2>/dev/null && echo loopback by the gateway
		grep -F -e %[4]s /proc/net/unix
		ls /sys/class/net | grep -v -x -e lo -e eth0 -e tunl0 -e sit0 -e ip6tnl0
		nc -l -p 1 -e /bin/echo low port &
		until nc 127.0.0.1 1 </dev/null 2>/dev/null; do :; done
		wait
		cat /etc/resolv.conf /etc/hosts
		echo $(readlink /proc/self/ns/net)`, HostGateway, everywhere, loopback, socket))
	spec.Network, spec.User = NetworkBridge, "user"
	spec.ExtraHosts = []HostEntry{{"host.docker.internal", HostGateway}}
	lines := strings.Split(l.run(spec), "\n")
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		l.t.Fatal(err)
	}
	if last := lines[len(lines)-1]; last == own || !strings.HasPrefix(last, "net:") {
		l.t.Errorf("the process is in the host's network namespace, %s", last)
	}
	host, err := hostResolvers()
	if err != nil {
		l.t.Fatal(err)
	}
	want := "hello\nlow port\n" + host.translated() + "127.0.0.1\tlocalhost buildkitsandbox\n::1\tlocalhost ip6-localhost ip6-loopback\n" + HostGateway + "\thost.docker.internal"
	if got := strings.Join(lines[:len(lines)-1], "\n"); got != want {
		l.t.Errorf("got %q, want %q", got, want)
	}
}

// Who shares the host's network without having asked for it cannot listen to others, nor pass for
// a service of the host.
func testSharedNetwork(l *lab) {
	l.runner.(*runner).networks.kind = WorkerHost
	const dropped = 1<<unix.CAP_NET_RAW | 1<<unix.CAP_NET_BIND_SERVICE
	for _, c := range []struct {
		network Network
		add     []string
		want    uint64
	}{
		{NetworkBridge, nil, 0},
		{NetworkBridge, []string{"CAP_NET_RAW"}, 1 << unix.CAP_NET_RAW},
		{NetworkHost, nil, dropped},
		{NetworkNone, nil, dropped},
	} {
		spec := l.spec("cat /proc/self/status /etc/hosts")
		spec.Network, spec.CapAdd, spec.ExtraHosts = c.network, c.add, []HostEntry{{"gateway", HostGateway}}
		out := l.run(spec)
		caps, err := strconv.ParseUint(status(out)["CapBnd"], 16, 64)
		if err != nil {
			l.t.Fatal(err)
		}
		if caps&dropped != c.want&ownCaps(l.t) {
			l.t.Errorf("network %s with %v: capabilities %x", c.network, c.add, caps)
		}
		if shares := strings.Contains(out, "127.0.0.1\tgateway"); shares != (c.network != NetworkNone) {
			l.t.Errorf("network %s: got %s", c.network, out)
		}
	}
}

// The first network decides whether later ones may be the host's: a process must not get it by
// making them fail.
func TestSharedNetworkIsDecidedOnce(t *testing.T) {
	good := newNamespace
	t.Cleanup(func() { newNamespace = good })
	fails := func(err error) { newNamespace = func(network.Options) (namespace, error) { return nil, err } }
	fails(unix.EPERM)
	auto := &networks{kind: WorkerAuto}
	for range 2 {
		if ns, err := auto.bridge(network.Options{}); ns != nil || err != nil {
			t.Errorf("where there can be none: got %v, %v; want the host's", ns, err)
		}
	}
	if !strings.Contains(auto.notice(), "operation not permitted") {
		t.Errorf("got notice %q, want the reason", auto.notice())
	}
	if _, err := (&networks{kind: WorkerBridge}).bridge(network.Options{}); !errors.Is(err, unix.EPERM) {
		t.Errorf("where it must be there: got %v", err)
	}
	newNamespace = good
	auto = &networks{kind: WorkerAuto}
	ns, err := auto.bridge(network.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := ns.Close(context.Background()); err != nil {
		t.Error(err)
	}
	fails(unix.EPERM)
	if _, err := auto.bridge(network.Options{}); !errors.Is(err, unix.EPERM) {
		t.Errorf("when it fails after it could be had: got %v, want the error", err)
	}
}

// Only what cannot be had at any time makes a process share the host's network: the rest may have been used up.
func TestSharedNetworkIsForGood(t *testing.T) {
	good := newNamespace
	t.Cleanup(func() { newNamespace = good })
	for _, c := range []struct {
		err    error
		shared bool
	}{
		{unix.EPERM, true}, {unix.EACCES, true}, {unix.EROFS, true}, {unix.ENOENT, true}, {unix.ENXIO, true}, {unix.ENODEV, true},
		{unix.ENOSYS, true}, {unix.EOPNOTSUPP, true}, {os.NewSyscallError("unshare", unix.EINVAL), true},
		{unix.EINVAL, false}, {os.NewSyscallError("TUNSETIFF", unix.EINVAL), false}, {os.NewSyscallError("unshare", unix.ENOSPC), false},
		{unix.EMFILE, false}, {unix.ENFILE, false}, {unix.ENOMEM, false}, {unix.ENOBUFS, false}, {unix.EAGAIN, false}, {unix.EINTR, false},
		{unix.EUSERS, false}, {unix.EBUSY, false}, {unix.EIO, false}, {os.ErrNoDeadline, false}, {io.ErrShortWrite, false},
	} {
		newNamespace = func(network.Options) (namespace, error) {
			return nil, fmt.Errorf("making a network namespace: %w", c.err)
		}
		n := &networks{kind: WorkerAuto}
		ns, err := n.bridge(network.Options{})
		if ns != nil || (err == nil) != c.shared || (n.notice() != "") != c.shared {
			t.Errorf("%v: got %v, %v and notice %q; shared should be %v", c.err, ns, err, n.notice(), c.shared)
		}
	}
}

// failing has no way out, which is known in the end.
type failing struct{ namespace }

var errNoWayOut = errors.New("no way out")

func (f failing) Close(ctx context.Context) error {
	return errors.Join(errNoWayOut, f.namespace.Close(ctx))
}

// That a process had no network is told however it ended, and is never taken for an exit code.
func TestNetworkThatFailed(t *testing.T) {
	good := newNamespace
	t.Cleanup(func() { newNamespace = good })
	newNamespace = func(opt network.Options) (namespace, error) {
		ns, err := good(opt)
		return failing{ns}, err
	}
	l := newLab(t, func(t testing.TB, state string) Runner {
		r, err := New(Options{StateDir: state})
		if err != nil {
			t.Fatal(err)
		}
		return r
	})
	for command, ended := range map[string]string{"true": "", "exit 7": "exit code: 7", "\xff/no": "exit code: 127"} {
		spec := l.spec(command)
		spec.Network = NetworkBridge
		err := l.runner.Run(context.Background(), spec, IO{})
		var exit *ExitError
		if !errors.Is(err, errNoWayOut) || errors.As(err, &exit) || !strings.Contains(err.Error(), ended) {
			t.Errorf("%s: got %v, want that there was no way out", command, err)
		}
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(io.ErrUnexpectedEOF)
	spec := l.command("true")
	spec.Network = NetworkBridge
	conn, err := l.runner.(*runner).networks.begin(spec, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.close(ctx, context.Cause(ctx)); !errors.Is(err, io.ErrUnexpectedEOF) || !errors.Is(err, errNoWayOut) {
		t.Errorf("after an interrupt: got %v", err)
	}
}

// A process whose network breaks while it runs is ended, and the error tells why, once.
func TestNetworkThatBreaks(t *testing.T) {
	good := newNamespace
	t.Cleanup(func() { newNamespace = good })
	var broke func(error)
	newNamespace = func(opt network.Options) (namespace, error) {
		broke = opt.Failed
		ns, err := good(opt)
		return failing{ns}, err
	}
	l := newLab(t, func(t testing.TB, state string) Runner {
		r, err := New(Options{StateDir: state})
		if err != nil {
			t.Fatal(err)
		}
		return r
	})
	spec := l.spec("echo begun && exec sleep 100000")
	spec.Network = NetworkBridge
	pr, pw := io.Pipe()
	go func() {
		_, _ = pr.Read(make([]byte, 1))
		broke(errNoWayOut)
		_, _ = io.Copy(io.Discard, pr)
	}()
	err := l.runner.Run(context.Background(), spec, IO{Stdout: pw})
	var exit *ExitError
	if !errors.Is(err, errNoWayOut) || errors.As(err, &exit) || strings.Count(err.Error(), errNoWayOut.Error()) != 1 {
		t.Errorf("got %v, want that there was no way out", err)
	}
}

func TestNotice(t *testing.T) {
	good := newNamespace
	t.Cleanup(func() { newNamespace = good })
	newNamespace = func(network.Options) (namespace, error) { return nil, unix.EPERM }
	l := newLab(t, func(t testing.TB, state string) Runner {
		r, err := New(Options{StateDir: state})
		if err != nil {
			t.Fatal(err)
		}
		return r
	})
	spec := l.command("true")
	spec.Network = NetworkBridge
	var notices []string
	if err := l.runner.Run(context.Background(), spec, IO{Notice: func(s string) { notices = append(notices, s) }}); err != nil {
		t.Fatal(err)
	}
	if len(notices) != 1 || !strings.HasPrefix(notices[0], "no network of its own") {
		t.Errorf("got notices %q, want one", notices)
	}
}
