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
	f := o.udpFlows.begin(ends)
	if f == nil {
		return true // it is lost, as datagrams may be
	}
	var queue waiter.Queue
	ep, err := r.CreateEndpoint(&queue)
	if err != nil {
		o.udpFlows.end(f)
		return false
	}
	in := gonet.NewUDPConn(&queue, ep)
	idle := udpIdle
	if ends.wanted.Port() == dnsPort {
		idle = dnsIdle
	}
	go func() {
		defer o.udpFlows.end(f)
		dialer := net.Dialer{Control: noBroadcast}
		out, err := dialer.DialContext(o.ctx, "udp", target.String())
		if err != nil {
			_ = in.Close()
			return
		}
		o.exchange(in, out, idle)
	}()
	return true
}

// noBroadcast takes away what Go allows all sockets for datagrams.
func noBroadcast(_, _ string, c syscall.RawConn) (err error) {
	cerr := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 0) })
	if cerr != nil {
		return cerr
	}
	return err
}

// exchange copies datagrams both ways until none has come for a while, or one side is gone.
func (o *outlet) exchange(in, out net.Conn, idle time.Duration) {
	stop := context.AfterFunc(o.ctx, func() { closeAll(in, out) })
	defer stop()
	var last atomic.Int64 // when the last one came, in nanoseconds
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{in, out}, {out, in}} {
		both.Go(func() {
			defer closeAll(in, out)
			passDatagrams(way[0], way[1], idle, &last)
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

func closeAll(conns ...net.Conn) {
	for _, c := range conns {
		_ = c.Close() // what was to be sent is sent, or lost
	}
}
