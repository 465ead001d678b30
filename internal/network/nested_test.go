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
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// A network in a network: the host of the inner one is a process of the outer one, and has its addresses.
func TestNested(t *testing.T) {
	loop := answerUDP(t, "127.0.0.53:53")
	n := namespace(t, Options{Servers: always(loop)})
	outside := []string{serve(t, hostAddr.String()+":0", hello).String(), serve(t, "["+hostAddr6.String()+"]:0", hello).String()}
	everywhere := netip.AddrPortFrom(Gateway, serve(t, "0.0.0.0:0", hello).Port()).String()
	if err := in(t, n, func() error {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), toNest+"="+strings.Join(append(outside, everywhere), " "))
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
		out, err := cmd.CombinedOutput()
		if err != nil || len(out) > 0 {
			err = fmt.Errorf("%w: %s", errors.Join(err), out)
		}
		return err
	}); err != nil {
		t.Error(err)
	}
}

// nest is a process in a network of this package that makes one itself.
func nest(addrs []string) error {
	n, err := New(Options{Servers: always(netip.AddrPortFrom(Resolvers(1)[0], dnsPort))})
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp4", ":0")
	if err != nil {
		return err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "hello")
			_ = c.Close()
		}
	}()
	port := l.Addr().(*net.TCPAddr).AddrPort().Port()
	// The inner gateway is the process in the outer network, whose own gateway is not reached by it.
	reached := append(slices.Clone(addrs[:2]), netip.AddrPortFrom(Gateway, port).String())
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := n.Enter()
		for _, addr := range reached {
			err = errors.Join(err, greeted(addr))
		}
		if refused := greeted(addrs[2]); !errors.Is(refused, unix.ECONNREFUSED) {
			err = errors.Join(err, fmt.Errorf("the gateway for what listens on the host of the outer network: got %w, want it refused", refused))
		}
		done <- errors.Join(err, asked(netip.AddrPortFrom(Resolvers(1)[0], dnsPort).String()))
	}()
	return errors.Join(<-done, n.Close(context.Background()))
}

func greeted(addr string) error {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	text, err := io.ReadAll(c)
	if err != nil || string(text) != "hello" {
		return fmt.Errorf("from %s: got %q, %w", addr, text, err)
	}
	return nil
}

func asked(addr string) error {
	c, err := net.Dial("udp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	buf := make([]byte, 100)
	err = c.SetDeadline(soon())
	if err == nil {
		_, err = io.WriteString(c, "question")
	}
	if err == nil {
		_, err = c.Read(buf)
	}
	if err != nil {
		return fmt.Errorf("asking %s: %w", addr, err)
	}
	return nil
}
