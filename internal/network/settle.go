package network

import (
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"runtime"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
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
	for _, f := range n.unsettled(ctx) {
		select {
		case <-f.sent:
		case <-ctx.Done():
			return
		}
	}
}

// unsettled are the connections that processes have ended, or may have, and no others from now on. One that
// was left open does not get more than it has, and one that never came about gets nothing.
func (n *Namespace) unsettled(ctx context.Context) (wait []*flow) {
	flows := n.out.tcpFlows.last()
	if len(flows) == 0 {
		return nil
	}
	sockets := n.sockets(ctx, flows)
	for f, established := range flows {
		state, there := sockets[f]
		if there && !stateOpen(state) || !there && established {
			wait = append(wait, f)
		}
	}
	return wait
}

// sockets are the states of what the kernel has of flows in the namespace: it sends on for a process that has closed
// its side, or is gone. It is asked for each of them: there may be a hundred thousand others. Where it does not tell,
// none are known, and all connections are waited for.
func (n *Namespace) sockets(ctx context.Context, flows map[*flow]bool) map[*flow]uint8 {
	found := make(chan map[*flow]uint8)
	go func() {
		runtime.LockOSThread() // never unlocked, so that Go ends the thread
		all := map[*flow]uint8{}
		err := n.Enter()
		var index uint32
		if err == nil {
			index, err = interfaceIndex()
		}
		for f := range flows {
			if err != nil || ctx.Err() != nil {
				break
			}
			state, serr := socketState(f.ends, index)
			if serr == nil && state != unix.BPF_TCP_LISTEN { // which is all that is there for these ends
				all[f] = state
			}
		}
		found <- all
	}()
	return <-found
}

// socketState asks the kernel for the socket of a connection, whether it is bound to the interface or to none:
// sock_diag(7), inet_diag_req_v2. (The library's SocketGet has the kernel look through all.)
func socketState(e ends, index uint32) (uint8, error) {
	const anyCookie = 1<<64 - 1
	family := uint8(unix.AF_INET)
	if e.process.Addr().Is6() {
		family = unix.AF_INET6
	}
	b := []byte{family, unix.IPPROTO_TCP, 0, 0}
	b = binary.NativeEndian.AppendUint32(b, 1<<32-1) // all states
	b = binary.BigEndian.AppendUint16(b, e.process.Port())
	b = binary.BigEndian.AppendUint16(b, e.wanted.Port())
	for _, addr := range []netip.Addr{e.process.Addr(), e.wanted.Addr()} {
		b = append(b, addr.AsSlice()...)
		b = append(b, make([]byte, 16-addr.BitLen()/8)...)
	}
	b = binary.NativeEndian.AppendUint32(b, index)
	b = binary.NativeEndian.AppendUint64(b, anyCookie)
	req := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, 0)
	req.AddRawData(b)
	answers, err := req.Execute(unix.NETLINK_INET_DIAG, nl.SOCK_DIAG_BY_FAMILY)
	if err != nil {
		return 0, err
	}
	if len(answers) == 0 || len(answers[0]) < 2 {
		return 0, errors.New("the kernel told nothing of a socket")
	}
	return answers[0][1], nil // after the family
}

// stateOpen reports whether the process has not closed its side of a socket.
func stateOpen(state uint8) bool {
	switch state {
	case netlink.TCP_ESTABLISHED, netlink.TCP_SYN_SENT, netlink.TCP_CLOSE_WAIT:
		return true
	}
	return false
}
