package network

import (
	"context"
	"net/netip"
	"runtime"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// grace is how long the end of a network waits for what its processes have sent. A peer that takes
// longer gets a reset.
const grace = 5 * time.Second

// settle waits until what processes sent over connections that they ended is with the host's kernel, which
// sees to the rest also when this process is gone. All processes have ended, so nothing new begins.
func (n *Namespace) settle(ctx context.Context) {
	if ctx.Err() != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	for _, f := range n.unsettled() {
		select {
		case <-f.sent:
		case <-ctx.Done():
			return
		}
	}
}

// unsettled are the connections that processes have ended, or may have, and no others from now on. One that
// was left open does not get more than it has, and one that never came about gets nothing.
func (n *Namespace) unsettled() (wait []*flow) {
	flows := n.out.tcpFlows.last()
	if len(flows) == 0 {
		return nil
	}
	sockets := n.sockets()
	for f, established := range flows {
		state, there := sockets[f.ends]
		if there && !stateOpen(state) || !there && established {
			wait = append(wait, f)
		}
	}
	return wait
}

// sockets are the states of what the kernel has in the namespace: it sends on for a process that has closed
// its side, or is gone. Where it does not tell, none are known, and all connections are waited for.
func (n *Namespace) sockets() map[ends]uint8 {
	found := make(chan map[ends]uint8)
	go func() {
		runtime.LockOSThread() // never unlocked, so that Go ends the thread
		all := map[ends]uint8{}
		if n.Enter() == nil {
			for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
				sockets, _ := netlink.SocketDiagTCP(family)
				for _, s := range sockets {
					all[ends{addrPort(s.ID.Source, s.ID.SourcePort), addrPort(s.ID.Destination, s.ID.DestinationPort)}] = s.State
				}
			}
		}
		found <- all
	}()
	return <-found
}

func addrPort(ip []byte, port uint16) netip.AddrPort {
	addr, _ := netip.AddrFromSlice(ip)
	return netip.AddrPortFrom(addr.Unmap(), port)
}

// stateOpen reports whether the process has not closed its side of a socket.
func stateOpen(state uint8) bool {
	switch state {
	case netlink.TCP_ESTABLISHED, netlink.TCP_SYN_SENT, netlink.TCP_CLOSE_WAIT:
		return true
	}
	return false
}
