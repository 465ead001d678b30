package network

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// tcp connects a process's connection to the outside. The process sees its connection once the
// other one is there, or refused if that is.
func (o *outlet) tcp(r *tcp.ForwarderRequest) {
	ends := endsOf(r.ID())
	target, ok := o.policy.target(ends.wanted)
	if !ok {
		r.Complete(true)
		return
	}
	f := o.tcpFlows.begin(ends)
	if f == nil {
		r.Complete(true)
		return
	}
	defer o.tcpFlows.end(f)
	var dialer net.Dialer
	conn, err := dialer.DialContext(o.ctx, "tcp", target.String())
	if err != nil {
		r.Complete(true)
		return
	}
	outer := conn.(*net.TCPConn)
	var queue waiter.Queue
	ep, terr := r.CreateEndpoint(&queue)
	r.Complete(terr != nil)
	if terr != nil {
		_ = outer.SetLinger(0) // the process may think that it is connected
		_ = outer.Close()
		return
	}
	in := &inner{TCPConn: gonet.NewTCPConn(&queue, ep), ep: ep}
	leave, ok := o.tcpFlows.join(f)
	if !ok {
		breakOff(in, outer)
		return
	}
	defer leave()
	stop := context.AfterFunc(o.ctx, func() { f.stop(in, outer) })
	defer stop()
	f.join(in, outer)
}

// inner is a process's connection.
type inner struct {
	*gonet.TCPConn
	ep tcpip.Endpoint
}

// join copies both ways until both have ended. What breaks on one side breaks on the other: an end
// that was none would look like a complete answer.
func (f *flow) join(in *inner, out *net.TCPConn) {
	var both sync.WaitGroup
	both.Go(func() {
		if err := carry(out, in); err != nil || out.CloseWrite() != nil {
			breakOff(in, out)
		}
		f.setSent()
	})
	both.Go(func() {
		if err := carry(in, out); err != nil || in.CloseWrite() != nil {
			breakOff(in, out)
		}
	})
	both.Wait()
	_ = in.Close()
	_ = out.Close()
}

// stop ends a connection at once. What the process has sent in full stays with the host's kernel.
func (f *flow) stop(in *inner, out *net.TCPConn) {
	if f.isSent() {
		_ = out.Close()
	}
	breakOff(in, out)
}

// breakOff ends a connection so that both sides see that it broke.
func breakOff(in *inner, out *net.TCPConn) {
	_ = out.SetLinger(0) // has Close send a reset
	_ = out.Close()
	in.ep.Abort() // whoever reads from it sees an ordinary end
}

var buffers = sync.Pool{New: func() any { b := make([]byte, 64<<10); return &b }}

// carry copies until the end of src.
func carry(dst io.Writer, src io.Reader) error {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
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
