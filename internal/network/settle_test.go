package network

import (
	"bytes"
	"context"
	"errors"
	"hash/fnv"
	"io"
	"net"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// pattern is data in which nothing that is missing or twice goes unnoticed.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i ^ i>>8 ^ i>>16)
	}
	return b
}

// slowServer is a listener whose connections take little at a time, and what it tells of each.
type slowServer struct {
	addr string
	read chan struct{} // closed: connections are read
	got  chan received
}

type received struct {
	bytes int
	sum   uint64
	err   error
}

func newSlowServer(t *testing.T) *slowServer {
	t.Helper()
	s := &slowServer{read: make(chan struct{}), got: make(chan received, 10)}
	lc := net.ListenConfig{Control: smallReceiveBuffer}
	l, err := lc.Listen(t.Context(), "tcp", hostAddr.String()+":0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	s.addr = l.Addr().String()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go s.take(c)
		}
	}()
	return s
}

func (s *slowServer) take(c net.Conn) {
	defer c.Close()
	<-s.read
	var r received
	hash := fnv.New64a()
	buf := make([]byte, 4<<10)
	for r.err == nil {
		var n int
		n, r.err = c.Read(buf)
		r.bytes += n
		_, _ = hash.Write(buf[:n])
		runtime.Gosched()
	}
	r.sum = hash.Sum64()
	s.got <- r
}

// What a process sent and closed reaches a slow reader in full when the network ends: over connections of which
// it closed one side, or all.
func TestCloseDelivers(t *testing.T) {
	data := pattern(6 << 20)
	hash := fnv.New64a()
	_, _ = hash.Write(data)
	for _, tt := range []struct {
		name string
		end  func(*net.TCPConn) error
	}{
		{"closed", (*net.TCPConn).Close},
		{"half closed", (*net.TCPConn).CloseWrite},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n, err := New(Options{})
			if err != nil {
				t.Fatal(err)
			}
			s := newSlowServer(t)
			send(t, n, s.addr, data, tt.end)
			closed := make(chan error, 1)
			go func() { closed <- n.Close(context.Background()) }()
			waitUntil(t, func() bool { return isFull(&n.out.tcpFlows) })
			close(s.read)
			if err := <-closed; err != nil {
				t.Error(err)
			}
			if r := <-s.got; r.err != io.EOF || r.bytes != len(data) || r.sum != hash.Sum64() {
				t.Errorf("the server got %d bytes of %d and then %v", r.bytes, len(data), r.err)
			}
		})
	}
}

// A process sent something and did not end it: the other side is told, also when the rest was on its way.
func TestCloseBreaksWhatWasLeftOpen(t *testing.T) {
	n, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	s := newSlowServer(t)
	send(t, n, s.addr, pattern(6<<20), func(*net.TCPConn) error { return nil })
	if wait := n.unsettled(t.Context()); len(wait) > 0 {
		t.Error("the end of the network waits for a connection that is open")
	}
	if err := n.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	close(s.read)
	if r := <-s.got; !errors.Is(r.err, unix.ECONNRESET) {
		t.Errorf("the server got %d bytes and %v, want a reset", r.bytes, r.err)
	}
}

// Who cancels does not wait for a peer.
func TestCancelledCloseDoesNotWait(t *testing.T) {
	n, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	s := newSlowServer(t)
	send(t, n, s.addr, pattern(6<<20), (*net.TCPConn).Close)
	ctx, cancel := context.WithCancel(t.Context())
	closed := make(chan error, 1)
	go func() { closed <- n.Close(ctx) }()
	waitUntil(t, func() bool { return isFull(&n.out.tcpFlows) })
	select {
	case err := <-closed:
		t.Errorf("the network ended before the server took anything: %v", err)
	default:
	}
	cancel()
	if err := <-closed; err != nil {
		t.Error(err)
	}
	close(s.read)
	if r := <-s.got; !errors.Is(r.err, unix.ECONNRESET) {
		t.Errorf("the server got %d bytes and %v, want a reset", r.bytes, r.err)
	}
}

// send sends data in a network, of which the kernel keeps there what does not go out yet.
func send(t *testing.T, n *Namespace, addr string, data []byte, end func(*net.TCPConn) error) {
	t.Helper()
	c, err := dial(t, n, "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	tcp := c.(*net.TCPConn)
	raw, err := tcp.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var serr error
	err = raw.Control(func(fd uintptr) {
		serr = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 4*len(data))
	})
	if err := errors.Join(err, serr); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(tcp, bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	if err := end(tcp); err != nil {
		t.Fatal(err)
	}
}

// A peer outside sends and closes: a slow process gets everything.
func TestSlowProcessGetsAll(t *testing.T) {
	n := namespace(t, Options{})
	data := pattern(8 << 20)
	addr := serve(t, hostAddr.String()+":0", func(c *net.TCPConn) {
		_, err := c.Write(data)
		if err := errors.Join(err, c.Close()); err != nil {
			t.Error(err)
		}
	})
	var c net.Conn
	err := in(t, n, func() (err error) {
		c, err = (&net.Dialer{Control: smallReceiveBuffer}).DialContext(t.Context(), "tcp", addr.String())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var got bytes.Buffer
	buf := make([]byte, 4<<10)
	for err == nil {
		var size int
		size, err = c.Read(buf)
		got.Write(buf[:size])
		runtime.Gosched()
	}
	if err != io.EOF || !bytes.Equal(got.Bytes(), data) {
		t.Errorf("the process got %d bytes of %d and then %v", got.Len(), len(data), err)
	}
}

// What the kernel has of a connection is found whatever kind of socket it is, and does not take more where a process
// has left many others.
func TestSocketsOfConnections(t *testing.T) {
	n := namespace(t, Options{})
	left := in(t, n, func() error { return leaveSockets(2000) })
	if left != nil {
		t.Fatal(left)
	}
	bound := func(_, _ string, c syscall.RawConn) (err error) {
		cerr := c.Control(func(fd uintptr) { err = unix.BindToDevice(int(fd), interfaceName) })
		return errors.Join(cerr, err)
	}
	for listen, control := range map[string]func(_, _ string, c syscall.RawConn) error{hostAddr.String(): nil, "[" + hostAddr6.String() + "]": nil, otherAddr.String(): bound} {
		addr := serve(t, listen+":0", func(c *net.TCPConn) { _, _ = io.Copy(io.Discard, c) })
		var c net.Conn
		err := in(t, n, func() (err error) {
			c, err = (&net.Dialer{Control: control}).DialContext(t.Context(), "tcp", addr.String())
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	waitUntil(t, func() bool { return joined(&n.out.tcpFlows) == 3 })
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	sockets := n.sockets(t.Context(), n.out.tcpFlows.last())
	runtime.ReadMemStats(&after)
	if allocations := after.Mallocs - before.Mallocs; allocations > 1000 {
		t.Errorf("looking for three sockets took %d allocations", allocations)
	}
	for f := range n.out.tcpFlows.last() {
		if state, there := sockets[f]; !there || state != unix.BPF_TCP_ESTABLISHED {
			t.Errorf("%v: got state %d, %v; want an established connection", f.ends, state, there)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if sockets := n.sockets(ctx, n.out.tcpFlows.last()); len(sockets) > 0 {
		t.Error("the kernel was asked although nobody waits")
	}
}

func joined(f *flows) (count int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for one := range f.now {
		if one.joined {
			count++
		}
	}
	return count
}

// leaveSockets makes connections that are over, which the kernel keeps for a minute.
func leaveSockets(count int) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer l.Close()
	for range count {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			return err
		}
		other, err := l.Accept()
		if err := errors.Join(err, c.Close()); err != nil {
			return err
		}
		if err := other.Close(); err != nil {
			return err
		}
	}
	return nil
}
