package network

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// tcp connects a process's connection to the outside. The process sees its connection once the
// other one is there, or refused if that is.
func (o *outlet) tcp(r *tcp.ForwarderRequest) {
	defer o.contain()
	ends := endsOf(r.ID())
	target, ok := o.policy.target(ends.wanted)
	if !ok {
		r.Complete(true)
		return
	}
	f := o.tcpFlows.begin(o.ctx, ends)
	if f == nil {
		r.Complete(true)
		return
	}
	defer o.tcpFlows.end(f)
	buffers := narrowBuffers
	if f.wide {
		buffers = wideBuffers
	}
	outer, err := connect(o.ctx, target, buffers)
	if err != nil {
		r.Complete(true)
		return
	}
	defer reset(outer) // which it is not yet only when the stack failed
	// A process may never complete the handshake, and a stack that failed never does.
	stopEarly := context.AfterFunc(o.ctx, func() { reset(outer) })
	defer stopEarly()
	var queue waiter.Queue
	ep, terr := r.CreateEndpoint(&queue)
	r.Complete(terr != nil)
	if terr != nil {
		return // and the process, which may think that it is connected, gets a reset
	}
	in := &inner{TCPConn: gonet.NewTCPConn(&queue, ep), ep: ep, queue: &queue}
	setBuffers(ep, f.wide)
	stopEarly()
	leave, ok := o.tcpFlows.join(f, in, outer)
	if !ok {
		breakOff(in, outer)
		return
	}
	defer leave()
	stop := context.AfterFunc(o.ctx, func() {
		defer o.contain()
		f.stop(in, outer)
	})
	defer stop()
	o.join(f, in, outer)
}

// connect connects to the outside; a variable for tests.
var connect = func(ctx context.Context, to netip.AddrPort, buffers hostBuffers) (*net.TCPConn, error) {
	dialer := net.Dialer{Control: buffers.set}
	return dialer.DialTCP(ctx, "tcp", netip.AddrPort{}, to)
}

// inner is a process's connection.
type inner struct {
	*gonet.TCPConn
	ep    tcpip.Endpoint
	queue *waiter.Queue
}

// closeAndWait waits until the process has all that was sent to it.
func (in *inner) closeAndWait(ctx context.Context) {
	over, changed := waiter.NewChannelEntry(waiter.EventHUp)
	in.queue.EventRegister(&over)
	defer in.queue.EventUnregister(&over)
	_ = in.Close()
	for {
		switch tcp.EndpointState(in.ep.State()) {
		case tcp.StateClose, tcp.StateError, tcp.StateTimeWait:
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// closeAndWait waits until the peer has all that was sent to it, which the kernel tells only who asks.
func closeAndWait(ctx context.Context, out *net.TCPConn) {
	defer out.Close()
	for wait := time.Millisecond; !delivered(out); wait = min(2*wait, time.Second) {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}

func delivered(out *net.TCPConn) bool {
	raw, err := out.SyscallConn()
	if err != nil {
		return true
	}
	var info *unix.TCPInfo
	cerr := raw.Control(func(fd uintptr) { info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) })
	if cerr != nil || err != nil {
		return true
	}
	switch info.State {
	case unix.BPF_TCP_FIN_WAIT2, unix.BPF_TCP_TIME_WAIT, unix.BPF_TCP_CLOSE:
		return true
	}
	return false
}

// join copies both ways until both have ended. What breaks on one side breaks on the other: an end
// that was none would look like a complete answer. Until both sides have everything, it has buffers.
func (o *outlet) join(f *flow, in *inner, out *net.TCPConn) {
	var both sync.WaitGroup
	both.Go(func() {
		defer o.contain()
		if err := f.carry(out, in); err != nil || out.CloseWrite() != nil {
			breakOff(in, out)
		}
		f.setSent()
	})
	both.Go(func() {
		defer o.contain()
		if err := f.carry(newSendQueue(in, f.wide), out); err != nil || in.CloseWrite() != nil {
			breakOff(in, out)
		}
	})
	both.Wait()
	in.closeAndWait(o.ctx)
	closeAndWait(o.ctx, out)
}

// stop ends a connection at once. What the process has sent in full stays with the host's kernel.
func (f *flow) stop(in *inner, out *net.TCPConn) {
	if f.isSent() {
		_ = out.Close()
	}
	breakOff(in, out)
}

// reset ends a connection so that the peer sees that it broke, unless it has ended.
func reset(out *net.TCPConn) {
	_ = out.SetLinger(0) // has Close send a reset
	_ = out.Close()
}

// breakOff ends a connection so that both sides see that it broke.
func breakOff(in *inner, out *net.TCPConn) {
	reset(out)
	in.ep.Abort() // whoever reads from it sees an ordinary end
}

var wideCopies, narrowCopies = copies(wideCopy), copies(narrowCopy)

func copies(size int) *sync.Pool {
	return &sync.Pool{New: func() any { b := make([]byte, size); return &b }}
}

// carry copies until the end of src.
func (f *flow) carry(dst io.Writer, src io.Reader) error {
	pool := narrowCopies
	if f.wide {
		pool = wideCopies
	}
	buf := pool.Get().(*[]byte)
	defer pool.Put(buf)
	for {
		n, err := src.Read(*buf)
		if n > 0 {
			if _, werr := dst.Write((*buf)[:n]); werr != nil {
				return werr
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
