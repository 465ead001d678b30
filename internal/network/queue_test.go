package network

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// only is the one connection there is, once it is established.
func only(t *testing.T, n *Namespace) (one *flow) {
	t.Helper()
	f := &n.out.tcpFlows
	waitUntil(t, func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		for one = range f.now {
			if one.joined {
				return len(f.now) == 1
			}
		}
		return false
	})
	return one
}

// unread is how much a socket has that nobody has read.
func unread(t *testing.T, c syscall.Conn) (size int) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) { size, err = unix.IoctlGetInt(int(fd), unix.SIOCINQ) }); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return size
}

// leastReceiveBuffer has a socket take as little as the kernel allows.
func leastReceiveBuffer(_, _ string, c syscall.RawConn) (err error) {
	cerr := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 1) })
	if cerr != nil {
		return cerr
	}
	return err
}

// trickle is a connection to a process that takes next to nothing, over which a peer sent data: a piece that is more than
// that, and single bytes until they were not taken.
type trickle struct {
	process net.Conn
	peer    *net.TCPConn
	flow    *flow
	size    int64 // of the stack's buffer
	data    []byte
	bytes   int
}

func newTrickle(t *testing.T, n *Namespace, wide int) *trickle {
	t.Helper()
	n.out.tcpFlows.mu.Lock()
	n.out.tcpFlows.wide = wide
	n.out.tcpFlows.mu.Unlock()
	peers := make(chan *net.TCPConn, 1)
	addr := serve(t, hostAddr.String()+":0", func(c *net.TCPConn) { peers <- c })
	r := &trickle{data: pattern(20 << 10)}
	err := in(t, n, func() (err error) {
		r.process, err = (&net.Dialer{Control: leastReceiveBuffer}).DialContext(context.Background(), "tcp", addr.String())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	r.peer, r.flow = <-peers, only(t, n)
	t.Cleanup(func() { _, _ = r.process.Close(), r.peer.Close() })
	r.size = r.flow.in.ep.SocketOptions().GetSendBufferSize()
	const first = 16 << 10
	if _, err := r.peer.Write(r.data[:first]); err != nil {
		t.Fatal(err)
	}
	for ; first+r.bytes < len(r.data) && !r.waits(); r.bytes++ {
		waitUntil(t, func() bool { return unread(t, r.flow.out) == 0 || r.waits() })
		if _, err := r.peer.Write(r.data[first+r.bytes:][:1]); err != nil {
			t.Fatal(err)
		}
	}
	r.data = r.data[:first+r.bytes]
	return r
}

// waits reports whether the connection waits for the process.
func (r *trickle) waits() bool { return r.flow.in.ep.SocketOptions().GetSendBufferSize() != r.size }

// A peer sends single bytes to a process that takes none: few of them are queued, each of which has a segment of its own.
// When the process reads it gets all, and the end.
func TestTrickleIsBounded(t *testing.T) {
	for _, tt := range []struct {
		name string
		wide int
		size int
	}{{"narrow", 0, narrowSend}, {"wide", 1, wideSend}} {
		t.Run(tt.name, func(t *testing.T) {
			r := newTrickle(t, namespace(t, Options{}), tt.wide)
			if most := tt.size / segmentOverhead; r.bytes > most {
				t.Errorf("the stack took %d single bytes, want at most %d", r.bytes, most)
			}
			rest := pattern(1 << 20)
			go func() {
				_, err := r.peer.Write(rest)
				if err := errors.Join(err, r.peer.CloseWrite()); err != nil {
					t.Error(err)
				}
			}()
			if got, err := io.ReadAll(r.process); err != nil || !bytes.Equal(got, append(r.data, rest...)) {
				t.Errorf("the process got %d bytes of %d, %v", len(got), len(r.data)+len(rest), err)
			}
			if r.waits() {
				t.Errorf("the buffer has %d bytes afterwards, want %d", r.flow.in.ep.SocketOptions().GetSendBufferSize(), r.size)
			}
		})
	}
}

// A connection that waits for its process ends with it, and with the network.
func TestTrickleEnds(t *testing.T) {
	for _, with := range []string{"process", "network"} {
		t.Run(with, func(t *testing.T) {
			n, err := New(Options{})
			if err != nil {
				t.Fatal(err)
			}
			r := newTrickle(t, n, 0)
			if !r.waits() {
				t.Error("it does not wait")
			}
			if with == "process" {
				if err := errors.Join(r.process.(*net.TCPConn).SetLinger(0), r.process.Close()); err != nil {
					t.Error(err)
				}
				waitUntil(t, func() bool { return count(&n.out.tcpFlows) == 0 })
			}
			if err := n.Close(context.Background()); err != nil {
				t.Error(err)
			}
			if _, err := r.peer.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
				t.Errorf("the peer got %v, want a reset", err)
			}
		})
	}
}

// What is counted for a segment is what the stack says that it needs, and for what lists it and its memory.
func TestMemoryOfPieces(t *testing.T) {
	if least := tcp.SegOverheadSize + 128; segmentOverhead < least {
		t.Errorf("a segment counts as %d bytes, want %d", segmentOverhead, least)
	}
	for _, tt := range []struct{ piece, want int }{
		{1, 64 + segmentOverhead},
		{64, 64 + segmentOverhead},
		{65, 128 + segmentOverhead},
		{leastSegment, leastSegment + segmentOverhead},
		{leastSegment + 1, 2 * (leastSegment + segmentOverhead)},
		{narrowCopy, narrowCopy + narrowCopy/leastSegment*segmentOverhead},
	} {
		if got := memoryOf(tt.piece); got != tt.want {
			t.Errorf("a piece of %d bytes takes %d, want %d", tt.piece, got, tt.want)
		}
	}
	for _, tt := range []struct{ copy, send int }{{narrowCopy, narrowSend}, {wideCopy, wideSend}} {
		if memory := memoryOf(tt.copy); memory > tt.send/2 {
			t.Errorf("a generation of half of %d bytes has no room for a piece of %d, which takes %d", tt.send, tt.copy, memory)
		}
	}
}

// A packet of any size is kept as it is, in memory for little more.
func TestPacketsAreCompact(t *testing.T) {
	packet := pattern(mtu)
	for n := 1; n <= mtu; n += 7 {
		b := compact(packet[:n])
		memory := 0
		b.Apply(func(v *buffer.View) { memory += v.Capacity() })
		if most := n + n/16 + 512; memory > most {
			t.Errorf("a packet of %d bytes takes %d, want at most %d", n, memory, most)
		}
		if !bytes.Equal(b.Flatten(), packet[:n]) {
			t.Errorf("a packet of %d bytes is another one", n)
		}
		b.Release()
	}
}
