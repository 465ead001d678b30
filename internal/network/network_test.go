package network

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The tests are a host of their own: this program starts again in a network namespace with two
// interfaces, so that nothing leaves it.
const (
	inside     = "_NETWORK_TEST"
	toBeKilled = "_NETWORK_TEST_KILLED"
	toNest     = "_NETWORK_TEST_NESTED"
	toForbid   = "_NETWORK_TEST_FORBIDDEN"
	toPair     = "_NETWORK_TEST_PAIR"
)

var (
	hostAddr  = netip.MustParseAddr("198.51.100.1")
	otherAddr = netip.MustParseAddr("203.0.113.1")
	hostAddr6 = netip.MustParseAddr("2001:db8:1::1")
	linkAddr6 = netip.MustParseAddr("fe80::1")
	loAddr    = netip.MustParseAddr("203.0.113.2") // of the loopback's interface
)

func TestMain(m *testing.M) {
	if os.Getenv(inside) == "" {
		cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
		cmd.Env = append(os.Environ(), inside+"=1")
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: unix.SIGKILL}
		err := cmd.Run()
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			os.Exit(exit.ExitCode())
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if os.Getenv(toPair) != "" {
		tryTun = func() (int, error) { return -1, unix.ENOENT }
	}
	if os.Getenv(toBeKilled) != "" {
		waitToBeKilled() // on the host of the test that does it
	}
	if addrs := strings.Fields(os.Getenv(toNest)); len(addrs) > 0 { // in a network of the test
		if err := nest(addrs); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if os.Getenv(toForbid) != "" { // in a user namespace of the test
		if err := forbid(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if err := makeHost(); err != nil {
		fmt.Fprintln(os.Stderr, "making the network of the tests:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// makeHost gives the host of the tests its addresses, on an interface that leads nowhere.
func makeHost() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return err
	}
	if err := netlink.AddrAdd(lo, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(loAddr, 32))}); err != nil {
		return err
	}
	out := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "out0"}, PeerName: "far0"}
	if err := netlink.LinkAdd(out); err != nil {
		return err
	}
	for _, a := range []netip.Addr{hostAddr, otherAddr, hostAddr6, linkAddr6} {
		addr := &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(a, a.BitLen()))}
		if a.Is6() {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrAdd(out, addr); err != nil {
			return err
		}
	}
	if err := netlink.LinkSetUp(out); err != nil {
		return err
	}
	for _, to := range []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")} {
		if err := netlink.RouteAdd(&netlink.Route{LinkIndex: out.Attrs().Index, Dst: ipNet(to)}); err != nil {
			return err
		}
	}
	return nil
}

func namespace(t testing.TB, opt Options) *Namespace {
	t.Helper()
	n, err := New(opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return n
}

// in calls f on a thread in the namespace.
func in(t testing.TB, n *Namespace, f func() error) error {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		err := n.Enter()
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

func dial(t testing.TB, n *Namespace, network, addr string) (conn net.Conn, err error) {
	err = in(t, n, func() error {
		conn, err = (&net.Dialer{}).DialContext(context.Background(), network, addr)
		return err
	})
	if err == nil {
		t.Cleanup(func() { _ = conn.Close() })
	}
	return conn, err
}

// serve answers each connection with f.
func serve(t testing.TB, addr string, f func(*net.TCPConn)) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go accept(l, f)
	return l.Addr().(*net.TCPAddr).AddrPort()
}

// accept has each connection answered by f.
func accept(l net.Listener, f func(*net.TCPConn)) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go f(c.(*net.TCPConn))
	}
}

// smallReceiveBuffer has a socket take little that nobody has read yet.
func smallReceiveBuffer(_, _ string, c syscall.RawConn) (err error) {
	cerr := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 64<<10) })
	return errors.Join(cerr, err)
}

// waitUntil waits for what nobody tells of.
func waitUntil(t *testing.T, f func() bool) {
	t.Helper()
	for end := soon(); !f(); runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatal("it does not come about")
		}
	}
}

func isFull(f *flows) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.full
}

func hello(c *net.TCPConn) {
	_, _ = io.WriteString(c, "hello")
	_ = c.Close()
}

// tinySegments has a socket ask for the least that the kernel allows to ask for.
func tinySegments(_, _ string, c syscall.RawConn) (err error) {
	cerr := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG, 88) })
	return errors.Join(cerr, err)
}
