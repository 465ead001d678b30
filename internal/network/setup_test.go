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

// held is what of this process a network may take.
type held struct{ descriptors, goroutines int }

func holding(t *testing.T) held {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return held{len(fds), runtime.NumGoroutine()}
}

// returnsTo waits until no more is held than before: goroutines may be on their way out.
func returnsTo(t *testing.T, before held) {
	t.Helper()
	for end := soon(); ; runtime.Gosched() {
		now := holding(t)
		if now.descriptors <= before.descriptors && now.goroutines <= before.goroutines {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%+v are held, %+v before", now, before)
		}
	}
}

// What a network took is given back with it, whether it was used, failed or its interface was deleted.
func TestNothingIsHeld(t *testing.T) {
	addr := serve(t, hostAddr.String()+":0", hello)
	use := func(n *Namespace) error {
		c, err := dial(t, n, "tcp", addr.String())
		if err != nil {
			return err
		}
		_, err = io.ReadAll(c)
		return errors.Join(err, c.Close())
	}
	if err := useOnce(t, use); err != nil { // what is made once for all is there then
		t.Fatal(err)
	}
	broken := errors.New("broken")
	good := newLink
	t.Cleanup(func() { newLink = good })
	for name, c := range map[string]struct {
		use  func(*Namespace) error
		fail error
	}{
		"used":                      {use: use},
		"unused":                    {use: func(*Namespace) error { return nil }},
		"deleted":                   {use: func(n *Namespace) error { return errors.Join(use(n), in(t, n, deleteInterface)) }},
		"deleted before it is used": {use: func(n *Namespace) error { return in(t, n, deleteInterface) }},
		"failing": {use: func(n *Namespace) error {
			err := in(t, n, func() error { return sendPackets(ipv4UDP(netip.AddrPortFrom(hostAddr, 9))) })
			for err == nil && !n.out.started.Load() {
				runtime.Gosched()
			}
			return err
		}, fail: broken},
	} {
		newLink = good
		if c.fail != nil {
			newLink = func(*os.File) (*tunLink, error) { return nil, c.fail }
		}
		before := holding(t)
		for range 3 {
			if err := useOnce(t, c.use); !errors.Is(err, c.fail) {
				t.Errorf("%s: got %v, want %v", name, err, c.fail)
			}
		}
		returnsTo(t, before)
	}
}

// useOnce makes a network, has it used and closes it.
func useOnce(t *testing.T, use func(*Namespace) error) error {
	t.Helper()
	n, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	return errors.Join(use(n), n.Close(context.Background()))
}

func deleteInterface() error {
	link, err := netlink.LinkByName(interfaceName)
	if err != nil {
		return err
	}
	return netlink.LinkDel(link)
}

// A file for which Go cannot wait is no way out, which is known before the process starts.
func TestFileThatCannotBeWaitedFor(t *testing.T) {
	before := holding(t)
	fd, err := unix.Open(t.TempDir(), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := open(fd, nil, &policy{}, nil); err == nil || !strings.Contains(err.Error(), "max_user_watches") {
		t.Errorf("got %v, want what may be the reason", err)
	}
	returnsTo(t, before)
}

// A process may send what is no packet. It does not end its network by that.
func TestOddPackets(t *testing.T) {
	n := namespace(t, Options{})
	witness, err := net.ListenPacket("udp", hostAddr.String()+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer witness.Close()
	good := ipv4UDP(witness.LocalAddr().(*net.UDPAddr).AddrPort())
	err = in(t, n, func() error {
		for _, odd := range [][]byte{{}, {0}, {0x45}, {0x60}, {0xff, 0xff}, good[:19]} {
			if err := sendPackets(odd); err != nil && !errors.Is(err, unix.EINVAL) {
				return err
			}
		}
		return sendPackets(good)
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := witness.SetReadDeadline(soon()); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	if n, _, err := witness.ReadFrom(buf); err != nil || string(buf[:n]) != "evil" {
		t.Errorf("after odd packets: got %q, %v", buf[:n], err)
	}
}

// Where new namespaces have no IPv6, a process has none.
func TestNoIPv6(t *testing.T) {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with its namespace
		done <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return err
			}
			if err := os.WriteFile("/proc/sys/net/ipv6/conf/default/disable_ipv6", []byte("1"), 0); err != nil {
				return err
			}
			tun, err := openTun()
			if err != nil {
				return err
			}
			defer unix.Close(tun)
			return configure(true, true, false)
		}()
	}()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// Where an administrator allows no namespaces, none can be had; where all that are allowed are in use, one could be.
func TestForbiddenNamespaces(t *testing.T) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), toForbid+"=1")
	root := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER, UidMappings: root, GidMappings: root, Pdeathsig: unix.SIGKILL}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// forbid bounds the namespaces of its own user namespace.
func forbid() error {
	if err := os.WriteFile(maxNamespaces, []byte("1"), 0); err != nil {
		return err
	}
	n, err := New(Options{Isolated: true})
	if err != nil {
		return err
	}
	defer n.ns.Close()
	if _, err := New(Options{Isolated: true}); !errors.Is(err, unix.ENOSPC) || Unavailable(err) {
		return fmt.Errorf("one too many: got %v, unavailable: %v", err, Unavailable(err))
	}
	if err := os.WriteFile(maxNamespaces, []byte("0"), 0); err != nil {
		return err
	}
	if _, err := New(Options{Isolated: true}); !Unavailable(err) {
		return fmt.Errorf("none may be: got %v, which is not said to be unavailable", err)
	}
	return nil
}
