package network

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
)

// brokenTun panics where the stack writes a packet, while it holds the lock of a connection, or loses packets.
type brokenTun struct {
	syscall.RawConn
	armed, mute *atomic.Bool
}

func (b brokenTun) Control(f func(uintptr)) error {
	if b.armed.Load() && runsIn("tcp.(*processor).start") {
		panic("planted")
	}
	if b.mute.Load() {
		return nil
	}
	return b.RawConn.Control(f)
}

// runsIn reports whether a function is among those that called the caller.
func runsIn(function string) bool {
	pcs := make([]uintptr, 100)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(2, pcs)])
	for {
		f, more := frames.Next()
		if strings.HasSuffix(f.Function, function) {
			return true
		}
		if !more {
			return false
		}
	}
}

// A panic of the stack, in whichever goroutine, ends its own network with an error, and neither this process nor the
// networks beside it. Connections to the outside break.
func TestPanicIsContained(t *testing.T) {
	var armed, mute atomic.Bool
	good := newLink
	t.Cleanup(func() { newLink = good })
	newLink = func(tun *os.File) (*tunLink, error) {
		link, err := good(tun)
		if err == nil {
			link.tun = brokenTun{link.tun, &armed, &mute}
		}
		return link, err
	}
	met, ended := make(chan struct{}, 1), make(chan error, 1)
	addr := serve(t, hostAddr.String()+":0", func(c *net.TCPConn) {
		met <- struct{}{}
		_, err := c.Read(make([]byte, 1))
		ended <- err
		_ = c.Close()
	})
	resolver := netip.AddrPortFrom(resolvers[0], dnsPort).String()
	// Whoever sends something that breaks the stack may wait for ever for an answer.
	send := func(n *Namespace, network, to string) {
		go func() {
			_ = in(t, n, func() error {
				conn, err := net.DialTimeout(network, to, time.Minute)
				if err == nil {
					_, _ = conn.Write([]byte("x"))
					err = conn.Close()
				}
				return err
			})
		}()
	}
	for _, c := range []struct {
		name, where string
		do          func(n *Namespace)
	}{
		{"segments", "brokenTun.Control", func(n *Namespace) {
			conn, err := dial(t, n, "tcp", addr.String())
			if err != nil {
				t.Fatal(err)
			}
			<-met // so that none of its own is in a processor's hands
			armed.Store(true)
			if _, err := conn.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
		}},
		{"first packets", "TestPanicIsContained", func(n *Namespace) { send(n, "tcp", resolver) }},
		{"packets", "TestPanicIsContained", func(n *Namespace) { send(n, "udp", resolver) }},
		{"timers", "TestPanicIsContained", func(n *Namespace) {
			send(n, "udp", addr.String())
			waitUntil(t, n.out.started.Load)
			clock{tcpip.NewStdClock(), n.out}.AfterFunc(0, func() { panic("planted") })
		}},
		{"handshakes", "TestPanicIsContained", func(n *Namespace) {
			mute.Store(true)
			send(n, "tcp", addr.String())
			<-met
			clock{tcpip.NewStdClock(), n.out}.AfterFunc(0, func() { panic("planted") })
		}},
	} {
		failed := make(chan error, 1)
		n, err := New(Options{Servers: func() []netip.AddrPort { panic("planted") }, Failed: func(err error) { failed <- err }})
		if err != nil {
			t.Fatal(err)
		}
		c.do(n)
		select {
		case err = <-failed:
		case <-time.After(time.Minute):
			t.Fatalf("%s: nobody is told", c.name)
		}
		armed.Store(false)
		mute.Store(false)
		if text := err.Error(); !strings.Contains(text, "its TCP/IP stack has failed: planted, in ") || !strings.Contains(text, c.where) {
			t.Errorf("%s: the error is %v, want where the panic was, in %s", c.name, err, c.where)
		}
		closed := make(chan error, 1)
		go func() { closed <- n.Close(context.Background()) }()
		select {
		case cerr := <-closed:
			if !errors.Is(cerr, err) {
				t.Errorf("%s: closing the network gives %v, want %v", c.name, cerr, err)
			}
		case <-time.After(time.Minute):
			t.Fatalf("%s: the network does not end", c.name)
		}
		if c.name == "segments" || c.name == "handshakes" {
			// What was written may have come before; and who is connecting still ends it like any other.
			if err := <-ended; err != nil && !errors.Is(err, unix.ECONNRESET) && (c.name == "segments" || !errors.Is(err, io.EOF)) {
				t.Errorf("%s: the peer of a connection sees %v, want a reset", c.name, err)
			}
		}
	}
	n, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dial(t, n, "tcp", addr.String()); err != nil {
		t.Errorf("a network after those that failed: %v", err)
	}
	if err := n.Close(context.Background()); err != nil {
		t.Error(err)
	}
}
