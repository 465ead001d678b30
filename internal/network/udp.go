package network

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// How long a pair of addresses is kept after its last datagram: as long as address translation in
// Linux keeps one, and shortly for questions to name servers, each of which has a port of its own.
const (
	udpIdle = 2 * time.Minute
	dnsIdle = 5 * time.Second
)

// maxDatagram is what a datagram can have.
const maxDatagram = 64 << 10

// udp passes datagrams between a process's address and port and those of somebody outside.
func (o *outlet) udp(r *udp.ForwarderRequest) (handled bool) {
	ends := endsOf(r.ID())
	target, ok := o.policy.target(ends.wanted)
	if !ok {
		return false // the process is told that nobody is there
	}
	f := o.udpFlows.replace(ends)
	if f == nil {
		return true // it is lost, as datagrams may be
	}
	var queue waiter.Queue
	ep, err := r.CreateEndpoint(&queue)
	if err != nil {
		o.udpFlows.end(f)
		return false
	}
	ep.SocketOptions().SetReceiveBufferSize(pairReceive, true)
	p := &pair{in: gonet.NewUDPConn(&queue, ep), ep: ep}
	idle := udpIdle
	if ends.wanted.Port() == dnsPort {
		idle = dnsIdle
	}
	go func() {
		defer o.udpFlows.end(f)
		dialer := net.Dialer{Control: pairSocket}
		out, err := dialer.DialContext(o.ctx, "udp", target.String())
		if err != nil {
			_ = p.in.Close()
			return
		}
		p.out = out.(*net.UDPConn)
		o.exchange(f, p, idle)
	}()
	return true
}

// pairSocket bounds buffers, and takes away what Go allows all sockets for datagrams.
func pairSocket(network, address string, c syscall.RawConn) (err error) {
	cerr := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 0) })
	return errors.Join(cerr, err, pairBuffers.set(network, address, c))
}

// exchange copies datagrams both ways until none has come for a while, one side is gone, or another
// pair takes the place of this one.
func (o *outlet) exchange(f *flow, p *pair, idle time.Duration) {
	o.udpFlows.use(f, p)
	stop := context.AfterFunc(o.ctx, p.close)
	defer stop()
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{p.in, p.out}, {p.out, p.in}} {
		both.Go(func() {
			defer p.close()
			passDatagrams(way[0], way[1], idle, &f.last)
		})
	}
	both.Wait()
}

func passDatagrams(from, to net.Conn, idle time.Duration, last *atomic.Int64) {
	buf := make([]byte, maxDatagram)
	for {
		if from.SetReadDeadline(time.Now().Add(idle)) != nil {
			return
		}
		n, err := from.Read(buf)
		now := time.Now().UnixNano()
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded) && now-last.Load() < int64(idle):
			continue // the other way is in use
		case err != nil:
			return
		}
		last.Store(now)
		if _, err := to.Write(buf[:n]); err != nil && !errors.Is(err, unix.EMSGSIZE) {
			return
		}
	}
}

// pair is a pair of addresses that exchange datagrams.
type pair struct {
	in  *gonet.UDPConn // the process's
	ep  tcpip.Endpoint
	out *net.UDPConn
}

func (p *pair) close() { // what was to be sent is sent, or lost
	_ = p.in.Close()
	_ = p.out.Close()
}
