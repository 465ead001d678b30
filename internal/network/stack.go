package network

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/log"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/fdbased"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

// outlet takes what a namespace sends and connects it to the outside.
type outlet struct {
	policy             *policy
	tun                *os.File
	tcpFlows, udpFlows flows
	ctx                context.Context // ends all
	cancel             context.CancelFunc
	ended              chan struct{}
	started            atomic.Bool // there is a stack
}

// maxFlows is the number of connections of one namespace at a time, attempts included, and as much
// for pairs of addresses that exchange datagrams. Each is a descriptor of this process and has buffers in it.
const maxFlows = 1024

// The buffers of a connection. What they bridge is the way to the process on this machine.
const (
	minBuffer     = 4 << 10
	defaultBuffer = 256 << 10
	maxBuffer     = 512 << 10
)

// open begins to read from tun, which it closes in the end.
func open(tun int, policy *policy) *outlet {
	o := &outlet{policy: policy, tun: os.NewFile(uintptr(tun), tunDevice), ended: make(chan struct{})}
	o.tcpFlows.max, o.udpFlows.max = maxFlows, maxFlows
	o.ctx, o.cancel = context.WithCancel(context.Background())
	go o.run()
	return o
}

// close breaks off what is left.
func (o *outlet) close() error {
	o.cancel()
	err := o.tun.SetReadDeadline(time.Unix(1, 0)) // run may be waiting for the first packet
	<-o.ended
	return errors.Join(err, o.tun.Close())
}

// run makes the stack when the first packet comes: many processes never send one.
func (o *outlet) run() {
	defer close(o.ended)
	raw, err := o.tun.SyscallConn()
	if err != nil {
		return
	}
	err = raw.Read(func(tun uintptr) bool {
		n, _ := unix.Poll([]unix.PollFd{{Fd: int32(tun), Events: unix.POLLIN}}, 0)
		return n > 0
	})
	if err != nil || o.ctx.Err() != nil {
		return
	}
	o.started.Store(true)
	var s *stack.Stack
	if cerr := raw.Control(func(tun uintptr) { s, err = o.newStack(int(tun)) }); cerr != nil || err != nil {
		return
	}
	<-o.ctx.Done()
	// All connections break off before the stack does: it would end them like any other. Those that are not
	// there yet it has to end: a process that hides its address never answers.
	o.tcpFlows.stop()
	s.Close()
	o.tcpFlows.all.Wait()
	o.udpFlows.stop()
	o.udpFlows.all.Wait()
	s.Destroy()
}

// gVisor logs packets that it does not like, which are no news to the user. It has loggers that keep the
// first target; they have a level.
func init() {
	log.SetLevel(log.Warning)
	log.SetTarget(&log.Writer{Next: io.Discard})
}

const nic = 1

func (o *outlet) newStack(tun int) (*stack.Stack, error) {
	s := stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
	})
	device, err := fdbased.New(&fdbased.Options{FDs: []int{tun}, MTU: mtu, RXChecksumOffload: true})
	if err != nil {
		return nil, fmt.Errorf("reading from %s: %w", tunDevice, err)
	}
	link := &waitingLink{LinkEndpoint: device}
	sack, moderate := tcpip.TCPSACKEnabled(true), tcpip.TCPModerateReceiveBufferOption(true)
	receive := tcpip.TCPReceiveBufferSizeRangeOption{Min: minBuffer, Default: defaultBuffer, Max: maxBuffer}
	send := tcpip.TCPSendBufferSizeRangeOption{Min: minBuffer, Default: defaultBuffer, Max: maxBuffer}
	for _, err := range []tcpip.Error{
		s.SetTransportProtocolOption(tcp.ProtocolNumber, &sack),
		s.SetTransportProtocolOption(tcp.ProtocolNumber, &moderate),
		s.SetTransportProtocolOption(tcp.ProtocolNumber, &receive),
		s.SetTransportProtocolOption(tcp.ProtocolNumber, &send),
		s.CreateNIC(nic, link),
		// It answers for all addresses there are.
		s.SetPromiscuousMode(nic, true),
		s.SetSpoofing(nic, true),
	} {
		if err != nil {
			return nil, fmt.Errorf("setting the network up: %s", err)
		}
	}
	s.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, NIC: nic}, {Destination: header.IPv6EmptySubnet, NIC: nic}})
	s.SetTransportProtocolHandler(tcp.ProtocolNumber, tcp.NewForwarder(s, 0, maxFlows, o.tcp).HandlePacket)
	s.SetTransportProtocolHandler(udp.ProtocolNumber, udp.NewForwarder(s, o.udp).HandlePacket)
	link.begin()
	return s, nil
}

// waitingLink delivers nothing before begin: what arrives when the stack is half made is lost, and
// the process sends it again only after a second.
type waitingLink struct {
	stack.LinkEndpoint
	dispatcher stack.NetworkDispatcher
}

func (l *waitingLink) Attach(d stack.NetworkDispatcher) {
	if d == nil {
		l.LinkEndpoint.Attach(nil)
	}
	l.dispatcher = d
}

func (l *waitingLink) begin() { l.LinkEndpoint.Attach(l.dispatcher) }
