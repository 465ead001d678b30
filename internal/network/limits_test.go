package network

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

func setMax(f *flows, n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.max = n
}

func waiting(f *flows) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.waiting
}

func count(f *flows) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.now)
}

// dialing connects in the background.
func dialing(t *testing.T, n *Namespace, addr string) <-chan error {
	done := make(chan error, 1)
	go func() {
		_, err := dial(t, n, "tcp", addr)
		done <- err
	}()
	return done
}

func TestFlowsAreBounded(t *testing.T) {
	n := namespace(t, Options{})
	setMax(&n.out.tcpFlows, 2)
	addr := serve(t, hostAddr.String()+":0", func(c *net.TCPConn) { _, _ = io.Copy(io.Discard, c); _ = c.Close() })
	var first net.Conn
	for range 2 {
		c, err := dial(t, n, "tcp", addr.String())
		if err != nil {
			t.Fatal(err)
		}
		first = c
	}
	third := dialing(t, n, addr.String())
	waitUntil(t, func() bool { return waiting(&n.out.tcpFlows) == 1 })
	select {
	case err := <-third:
		t.Fatalf("the third connection of two does not wait: %v", err)
	default:
	}
	_ = first.Close()
	if err := <-third; err != nil {
		t.Errorf("when another connection has ended: %v", err)
	}
	if got := count(&n.out.tcpFlows); got > 2 {
		t.Errorf("there are %d connections of two", got)
	}
}

// over reports whether there is just one connection, and both sides have ended it.
func over(f *flows) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for one := range f.now {
		if one.in == nil || !one.isSent() {
			return false
		}
		switch tcp.EndpointState(one.in.ep.State()) {
		case tcp.StateLastAck, tcp.StateClosing, tcp.StateTimeWait, tcp.StateClose:
			return len(f.now) == 1
		}
	}
	return false
}

// A connection that both sides have ended has buffers until each has got everything: that long it counts.
func TestUndeliveredFlowsCount(t *testing.T) {
	for _, tt := range []struct {
		name  string
		serve func(c *net.TCPConn, read <-chan struct{})
		write int
	}{
		{"the process does not read", func(c *net.TCPConn, _ <-chan struct{}) {
			_, _ = io.Copy(io.Discard, c)
			_, _ = c.Write(pattern(256 << 10))
		}, 0},
		{"the peer does not read", func(c *net.TCPConn, read <-chan struct{}) {
			_ = c.CloseWrite()
			<-read
			_, _ = io.Copy(io.Discard, c)
		}, 1 << 20},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := namespace(t, Options{})
			setMax(&n.out.tcpFlows, 1)
			read := make(chan struct{})
			addr := serveSmall(t, func(c *net.TCPConn) {
				tt.serve(c, read)
				_ = c.Close()
			})
			var c net.Conn
			err := in(t, n, func() (err error) {
				c, err = (&net.Dialer{Control: smallReceiveBuffer}).DialContext(t.Context(), "tcp", addr)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_, err = c.Write(pattern(tt.write))
			if err := errors.Join(err, c.(*net.TCPConn).CloseWrite()); err != nil {
				t.Fatal(err)
			}
			second := dialing(t, n, addr)
			waitUntil(t, func() bool { return waiting(&n.out.tcpFlows) == 1 && over(&n.out.tcpFlows) })
			// What would end it now has time to.
			answer := answerUDP(t, hostAddr.String()+":0").String()
			for range 100 {
				if err := exchange(t, n, answer, []byte("question")); err != nil {
					t.Fatal(err)
				}
			}
			if waiting(&n.out.tcpFlows) != 1 {
				t.Error("another connection took the place of one that has not delivered what it has")
			}
			close(read)
			_, _ = io.Copy(io.Discard, c)
			if err := <-second; err != nil {
				t.Error(err)
			}
		})
	}
}

// serveSmall is serve for connections that take little which nobody has read.
func serveSmall(t *testing.T, f func(*net.TCPConn)) string {
	t.Helper()
	lc := net.ListenConfig{Control: smallReceiveBuffer}
	l, err := lc.Listen(t.Context(), "tcp", hostAddr.String()+":0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go accept(l, f)
	return l.Addr().String()
}

// A new pair of addresses takes the place of the one that was quiet for longest.
func TestPairsAreReplaced(t *testing.T) {
	n := namespace(t, Options{})
	n.out.pairs.mu.Lock()
	n.out.pairs.max = 2
	n.out.pairs.mu.Unlock()
	addr := answerUDP(t, hostAddr.String()+":0").String()
	ask := func(c net.Conn) {
		t.Helper()
		_, err := c.Write([]byte("question"))
		if err := errors.Join(err, c.SetReadDeadline(soon())); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
	}
	var conns []net.Conn
	for range 3 {
		c, err := dial(t, n, "udp", addr)
		if err != nil {
			t.Fatal(err)
		}
		ask(c)
		if conns = append(conns, c); len(conns) == 2 {
			ask(conns[0])
		}
		n.out.pairs.mu.Lock()
		if got := len(n.out.pairs.now); got > 2 {
			t.Errorf("there are %d pairs of two", got)
		}
		n.out.pairs.mu.Unlock()
	}
	kept := map[netip.AddrPort]bool{}
	n.out.pairs.mu.Lock()
	for e := range n.out.pairs.now {
		kept[e.process] = true
	}
	n.out.pairs.mu.Unlock()
	for i, want := range []bool{true, false, true} {
		if got := kept[conns[i].LocalAddr().(*net.UDPAddr).AddrPort()]; got != want {
			t.Errorf("pair %d: kept is %v, want %v", i, got, want)
		}
	}
	ask(conns[1]) // it begins anew
}

// All that one namespace can have at a time has room in what docs/security.md promises.
func TestMemoryIsBounded(t *testing.T) {
	n := namespace(t, Options{})
	addr := serve(t, hostAddr.String()+":0", func(c *net.TCPConn) { _, _ = io.Copy(io.Discard, c) }).String()
	for range maxConnections {
		if _, err := dial(t, n, "tcp", addr); err != nil {
			t.Fatal(err)
		}
	}
	over := dialing(t, n, addr)
	waitUntil(t, func() bool { return waiting(&n.out.tcpFlows) == 1 })
	answer := answerUDP(t, hostAddr.String()+":0").String()
	for range maxPairs + 1 {
		if err := exchange(t, n, answer, []byte("question")); err != nil {
			t.Fatal(err)
		}
	}
	sum, wide := fragments+waitingMemory, 0
	n.out.tcpFlows.mu.Lock()
	for f := range n.out.tcpFlows.now {
		options := f.in.ep.SocketOptions()
		sum += int(options.GetReceiveBufferSize()+options.GetSendBufferSize()) + mtu + hostMemory(t, f.out)
		if f.wide {
			sum += 2 * wideCopy
			wide++
		} else {
			sum += 2 * narrowCopy
		}
	}
	connections := len(n.out.tcpFlows.now)
	n.out.tcpFlows.mu.Unlock()
	n.out.pairs.mu.Lock()
	for _, p := range n.out.pairs.now {
		sum += hostMemory(t, p.out) + 3*maxDatagram // one beyond its bound, and what is on its way in either direction
	}
	pairs := len(n.out.pairs.now)
	n.out.pairs.mu.Unlock()
	t.Logf("%d bytes", sum)
	if sum > maxMemory || connections != maxConnections || pairs != maxPairs || wide != wideConnections {
		t.Errorf("%d connections, %d of them wide, and %d pairs may have %d bytes, want at most %d", connections, wide, pairs, sum, maxMemory)
	}
	select {
	case err := <-over:
		t.Errorf("one connection more than there may be: %v", err)
	default:
	}
}

// hostMemory is what the kernel may keep for a socket.
func hostMemory(t *testing.T, c syscall.Conn) (sum int) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	cerr := raw.Control(func(fd uintptr) {
		for _, opt := range []int{unix.SO_RCVBUF, unix.SO_SNDBUF} {
			size, gerr := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, opt)
			sum, err = sum+size, errors.Join(err, gerr)
		}
	})
	if err := errors.Join(cerr, err); err != nil {
		t.Fatal(err)
	}
	return sum
}

// A first packet waits for the other side, and is kept. One with data, or that does not say how large segments may be,
// is not.
func TestFirstPackets(t *testing.T) {
	n, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	var listeners []*net.TCPListener
	for range 3 {
		l, err := net.Listen("tcp", hostAddr.String()+":0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		listeners = append(listeners, l.(*net.TCPListener))
	}
	to := func(i int) netip.AddrPort { return listeners[i].Addr().(*net.TCPAddr).AddrPort() }
	err = in(t, n, func() error {
		return sendPackets(ipv4SYN(to(0), make([]byte, 60000)...), ipv4SYNWith(nil, to(1)), ipv4SYN(to(2)))
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := listeners[2].Accept(); err != nil {
		t.Fatal(err)
	}
	if err := n.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	for i, what := range []string{"with data", "without a size of segments"} {
		raw, err := listeners[i].SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		cerr := raw.Control(func(fd uintptr) {
			_, _, err = unix.Accept4(int(fd), unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
		})
		if cerr != nil || !errors.Is(err, unix.EAGAIN) {
			t.Errorf("a first packet %s came through: got %v, %v", what, err, cerr)
		}
	}
}
