package network

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// What a namespace may have at a time. Processes choose how much of it they fill: they need not read, and a
// peer outside need not either. All together are at most maxMemory, this process's memory and the host's
// kernel's, neither of which is the processes' own.
const (
	maxMemory = 128 << 20

	// maxConnections are those of TCP, attempts included. Others wait until one of them is over.
	maxConnections = 96
	// wideConnections of them have buffers on the host's side that a fast and distant peer needs; the others
	// have enough for a near one.
	wideConnections = 4
	// maxPairs are pairs of addresses that exchange datagrams. Another one takes the place of that which has been
	// quiet for longest.
	maxPairs = 64

	// The buffers of the stack, and those between it and the host's socket, bridge the way to the process on
	// this machine. What is sent is counted as the memory that it takes (sendQueue).
	minBuffer                             = 4 << 10
	wideReceive, wideSend, wideCopy       = 1 << 20, 704 << 10, 64 << 10
	narrowReceive, narrowSend, narrowCopy = 192 << 10, 192 << 10, 32 << 10

	// What the stack needs for each segment that it sends, and for the least data.
	segmentOverhead = 768
	leastChunk      = 64

	// Those of the host's kernel count twice, as it does that, for what it keeps beside the data.
	wideHostReceive, wideHostSend     = 2 << 20, 768 << 10
	narrowHostReceive, narrowHostSend = 64 << 10, 48 << 10
	pairHostReceive, pairHostSend     = 48 << 10, 32 << 10

	// fragments are what the stack keeps of unfinished packets, IPv4's and IPv6's.
	fragments = 2 * 4 << 20
	// waitingMemory is that of first packets of connections.
	waitingMemory = 2 * maxConnections * 12 << 10
)

// hostBuffers are those of a socket of the host.
type hostBuffers struct{ receiveOption, receive, sendOption, send int }

// Buffers that the host does not give everybody (net.core.rmem_max) need CAP_NET_ADMIN there. Without, those of wide
// connections are as large as its kernel lets them grow (net.ipv4.tcp_rmem).
var (
	wideBuffers   = hostBuffers{unix.SO_RCVBUFFORCE, wideHostReceive, unix.SO_SNDBUFFORCE, wideHostSend}
	narrowBuffers = hostBuffers{unix.SO_RCVBUF, narrowHostReceive, unix.SO_SNDBUF, narrowHostSend}
	pairBuffers   = hostBuffers{unix.SO_RCVBUF, pairHostReceive, unix.SO_SNDBUF, pairHostSend}
)

func (b hostBuffers) set(_, _ string, c syscall.RawConn) (err error) {
	cerr := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, b.receiveOption, b.receive)
		if err == nil {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, b.sendOption, b.send)
		}
	})
	if errors.Is(err, unix.EPERM) {
		err = nil
	}
	return errors.Join(cerr, err)
}

// setLimits bounds what the stack keeps.
func setLimits(s *stack.Stack) tcpip.Error {
	receive := tcpip.TCPReceiveBufferSizeRangeOption{Min: minBuffer, Default: narrowReceive, Max: narrowReceive}
	send := tcpip.TCPSendBufferSizeRangeOption{Min: minBuffer, Default: narrowSend, Max: narrowSend}
	// Nothing comes late on the way to a process on this machine, so a connection that is over need not be kept.
	timeWait := tcpip.TCPTimeWaitTimeoutOption(0)
	for _, opt := range []tcpip.SettableTransportProtocolOption{&receive, &send, &timeWait} {
		if err := s.SetTransportProtocolOption(tcp.ProtocolNumber, opt); err != nil {
			return err
		}
	}
	return nil
}

// forwarder hands first packets of connections on. They wait for others to end, and are kept meanwhile: one
// with data, which no kernel sends that was not told that it may, or without the size of segments is dropped.
func (o *outlet) forwarder(s *stack.Stack) func(stack.TransportEndpointID, *stack.PacketBuffer) bool {
	next := tcp.NewForwarder(s, narrowReceive, 2*maxConnections, o.tcp).HandlePacket
	return func(id stack.TransportEndpointID, p *stack.PacketBuffer) bool {
		if h := header.TCP(p.TransportHeader().Slice()); h.Flags().Contains(header.TCPFlagSyn) {
			if p.Data().Size() > 0 || !raiseSegments(h) {
				return true
			}
		}
		return next(id, p)
	}
}
