package network

import (
	"context"
	"net"
	"net/netip"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// ends are the address and port of a process, and those that it wants to reach.
type ends struct{ process, wanted netip.AddrPort }

func endsOf(id stack.TransportEndpointID) ends {
	process, _ := netip.AddrFromSlice(id.RemoteAddress.AsSlice())
	wanted, _ := netip.AddrFromSlice(id.LocalAddress.AsSlice())
	return ends{netip.AddrPortFrom(process, id.RemotePort), netip.AddrPortFrom(wanted, id.LocalPort)}
}

// flow is a connection of TCP, or an attempt at one.
type flow struct {
	ends ends
	// sent is closed when all that the process sent, and that it ended, is with the host's kernel, and
	// when the flow is over.
	sent     chan struct{}
	sentOnce sync.Once
	wide     bool
	joined   bool // it is established; flows.mu
	in       *inner
	out      *net.TCPConn
}

func (f *flow) setSent() { f.sentOnce.Do(func() { close(f.sent) }) }

func (f *flow) isSent() bool {
	select {
	case <-f.sent:
		return true
	default:
		return false
	}
}

// flows are connections, of which there may be so many.
type flows struct {
	max, wide int

	mu      sync.Mutex
	now     map[*flow]struct{}
	waiting int
	ended   chan struct{} // closed, and replaced, when one that others wait for has ended
	full    bool          // there will be no more
	stopped bool          // none of them goes on
	all     sync.WaitGroup
	joined  sync.WaitGroup // those of all that are established
}

// begin waits until there may be one more. It returns nil when there will be none.
func (f *flows) begin(ctx context.Context, e ends) *flow {
	f.mu.Lock()
	defer f.mu.Unlock()
	for !f.full && len(f.now) >= f.max {
		if f.ended == nil {
			f.ended = make(chan struct{})
		}
		ended := f.ended
		f.waiting++
		f.mu.Unlock()
		select {
		case <-ended:
		case <-ctx.Done():
		}
		f.mu.Lock()
		f.waiting--
		if ctx.Err() != nil {
			return nil
		}
	}
	if f.full {
		return nil
	}
	if f.now == nil {
		f.now = map[*flow]struct{}{}
	}
	one := &flow{ends: e, sent: make(chan struct{}), wide: f.wide > 0}
	if one.wide {
		f.wide--
	}
	f.now[one] = struct{}{}
	f.all.Add(1)
	return one
}

func (f *flows) end(one *flow) {
	one.setSent()
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.now, one)
	if one.wide {
		f.wide++
	}
	if f.ended != nil {
		close(f.ended)
		f.ended = nil
	}
	f.all.Done()
}

// join reports whether a flow that was established may go on; leave ends it then.
func (f *flows) join(one *flow, in *inner, out *net.TCPConn) (leave func(), ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stopped {
		return nil, false
	}
	one.joined, one.in, one.out = true, in, out
	f.joined.Add(1)
	return f.joined.Done, true
}

// last lets no more begin. It returns those that there are, and whether each is established.
func (f *flows) last() map[*flow]bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.full = true
	all := make(map[*flow]bool, len(f.now))
	for one := range f.now {
		all[one] = one.joined
	}
	return all
}

// stop waits for those that are established; there will be no more.
func (f *flows) stop() {
	f.mu.Lock()
	f.full, f.stopped = true, true
	f.mu.Unlock()
	f.joined.Wait()
}
