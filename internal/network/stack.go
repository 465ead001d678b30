package network

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/log"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/fdbased"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

// outlet takes what a namespace sends and connects it to the outside.
type outlet struct {
	policy   *policy
	tun      *os.File
	peer     *peer // tun is the socket of a pair
	tcpFlows flows
	pairs    pairs
	ctx      context.Context // ends all
	cancel   context.CancelFunc
	ended    chan struct{} // then there is err
	err      error         // why there was no way out
	started  atomic.Bool   // there is a stack
	failed   func(error)   // unless nil, is told that the stack broke

	breakOnce sync.Once
	broken    chan struct{} // then there is broke, see contain
	broke     error
}

// open begins to read from tun, which it closes in the end. failed may be nil.
func open(tun int, to *peer, policy *policy, failed func(error)) (*outlet, error) {
	o := &outlet{policy: policy, peer: to, tun: os.NewFile(uintptr(tun), tunDevice), failed: failed, ended: make(chan struct{}), broken: make(chan struct{})}
	if err := o.tun.SetReadDeadline(time.Time{}); err != nil { // Go was refused to wait for it, and keeps the reason to itself
		return nil, errors.Join(fmt.Errorf("waiting for packets of %s: %w (is the limit fs.epoll.max_user_watches reached?)", tunDevice, err), o.tun.Close())
	}
	o.tcpFlows.max, o.tcpFlows.wide, o.pairs.max = maxConnections, wideConnections, maxPairs
	o.ctx, o.cancel = context.WithCancel(context.Background())
	go o.run()
	return o, nil
}

// close breaks off what is left.
func (o *outlet) close() error {
	o.cancel()
	<-o.ended
	if o.err != nil && o.err != o.broke {
		o.err = fmt.Errorf("passing on packets of a network namespace: %w", o.err)
	}
	if o.peer != nil { // the kernel waits for all that could be using the socket: some ten milliseconds, for which nobody has to
		go func() { _ = o.tun.Close() }()
		return o.err
	}
	return errors.Join(o.err, o.tun.Close())
}

// run makes the stack when the first packet comes: many processes never send one.
func (o *outlet) run() {
	defer close(o.ended)
	stop := context.AfterFunc(o.ctx, o.stopReading)
	packet := packets.Get().(*[maxPacket]byte)
	n, err := o.tun.Read(packet[:])
	if !stop() || err != nil {
		packets.Put(packet)
		o.err = o.readError(err)
		return
	}
	o.started.Store(true)
	over := make(chan error, 1)
	go func() {
		defer o.contain()
		over <- o.pass(packet, n)
	}()
	select {
	case o.err = <-over:
	case <-o.broken:
	}
	select {
	case <-o.broken: // who reads may have the packet for ever
		o.abandon()
		o.err = o.broke
	default:
		packets.Put(packet)
	}
}

// pass has a stack take all packets, the first one being that in packet, until the network ends.
func (o *outlet) pass(packet *[maxPacket]byte, n int) error {
	s, link, err := o.newStack()
	if err != nil {
		s.Destroy()
		return err
	}
	var reader sync.WaitGroup
	reader.Go(func() {
		defer o.contain()
		err = o.read(link, packet[:], n)
	})
	<-o.ctx.Done()
	// All connections break off before the stack does: it would end them like any other. Those that are not
	// there yet it has to end: a process that hides its address never answers.
	o.tcpFlows.stop()
	// Nothing arrives in a stack that is closed: a fragment would have it never end.
	o.stopReading()
	reader.Wait()
	o.endFlows(s)
	o.pairs.stop()
	s.Destroy()
	return err
}

// endFlows ends what did not come about yet. The stack does not tell when it begins with one that was just connected
// outside, and has minutes of patience with it: it is asked again until none is left.
func (o *outlet) endFlows(s *stack.Stack) {
	over := make(chan struct{})
	go func() {
		defer close(over)
		o.tcpFlows.all.Wait()
	}()
	for {
		for _, ep := range s.RegisteredEndpoints() {
			ep.Abort()
		}
		select {
		case <-over:
			return
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// packets are what one is read into: networks are made and closed quickly.
var packets = sync.Pool{New: func() any { return new([maxPacket]byte) }}

// write gives the process a packet.
func (o *outlet) write(packet []byte) error {
	if o.peer == nil {
		_, err := o.tun.Write(packet)
		return err
	}
	conn, err := o.tun.SyscallConn()
	if err != nil {
		return err
	}
	return o.peer.send(conn, [][]byte{packet})
}

// stopReading cannot fail where open's deadline could be set.
func (o *outlet) stopReading() { _ = o.tun.SetReadDeadline(time.Unix(1, 0)) }

// read hands packets to the stack, the first one being that in packet.
func (o *outlet) read(link *tunLink, packet []byte, n int) (err error) {
	for err == nil {
		inject(link, packet[:n])
		n, err = o.tun.Read(packet)
	}
	return o.readError(err)
}

func inject(link *tunLink, packet []byte) {
	if !passes(packet) {
		return
	}
	protocol := header.IPv4ProtocolNumber
	if header.IPVersion(packet) == header.IPv6Version {
		protocol = header.IPv6ProtocolNumber
	}
	p := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: compact(packet)})
	defer p.DecRef()
	link.InjectInbound(protocol, p)
}

// compact has a packet in memory that is not much larger than what the stack counts for it, the size of the packet: it
// keeps each piece in memory that is a power of two.
func compact(packet []byte) (b buffer.Buffer) {
	for len(packet) > 0 {
		n, chunk := len(packet), chunkOf(len(packet))
		if chunk > 1<<10 && chunk-n > n/16 {
			n = chunk / 2
		}
		_ = b.Append(buffer.NewViewWithData(packet[:n]))
		packet = packet[n:]
	}
	return b
}

// readError is what of an end of reading is an error. That the interface is gone is none: a process
// that may delete it did.
func (o *outlet) readError(err error) error {
	if err == nil || errors.Is(err, os.ErrDeadlineExceeded) || o.peer != nil && errors.Is(err, unix.ENETDOWN) {
		return nil
	}
	raw, rerr := o.tun.SyscallConn()
	if rerr != nil {
		return err
	}
	cerr := raw.Control(func(tun uintptr) {
		req, _ := unix.NewIfreq(interfaceName)
		if errors.Is(unix.IoctlIfreq(int(tun), unix.TUNGETIFF, req), unix.EBADFD) {
			err = nil
		}
	})
	return errors.Join(err, cerr)
}

// gVisor logs packets that it does not like, which are no news to the user. It has loggers that keep the
// first target; they have a level.
func init() {
	log.SetLevel(log.Warning)
	log.SetTarget(&log.Writer{Next: io.Discard})
}

const nic = 1

// newStack returns what there is of a stack with an error, too.
func (o *outlet) newStack() (*stack.Stack, *tunLink, error) {
	s := stack.New(stack.Options{
		Clock:              clock{tcpip.NewStdClock(), o},
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol},
	})
	// gVisor's own reader takes a descriptor for each stack, which it never closes.
	link, err := newLink(o.tun)
	if err != nil {
		return s, nil, fmt.Errorf("writing to %s: %w", tunDevice, err)
	}
	link.peer = o.peer
	sack := tcpip.TCPSACKEnabled(true)
	for _, err := range []tcpip.Error{
		s.SetTransportProtocolOption(tcp.ProtocolNumber, &sack),
		setLimits(s),
		s.CreateNIC(nic, link),
		// It answers for all addresses there are.
		s.SetPromiscuousMode(nic, true),
		s.SetSpoofing(nic, true),
	} {
		if err != nil {
			return s, nil, fmt.Errorf("setting the network up: %s", err)
		}
	}
	s.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, NIC: nic}, {Destination: header.IPv6EmptySubnet, NIC: nic}})
	s.SetTransportProtocolHandler(tcp.ProtocolNumber, o.forwarder(s))
	s.SetTransportProtocolHandler(udp.ProtocolNumber, o.udp)
	return s, link, nil
}

// tunLink writes packets to tun while that is open. The stack is not done when it is closed: what a refused connection
// was to be told comes late, and another file has the descriptor's number then.
type tunLink struct {
	*fdbased.InjectableEndpoint
	tun  syscall.RawConn
	peer *peer
}

// newLink makes what writes packets to tun; a variable for tests.
var newLink = func(tun *os.File) (*tunLink, error) {
	raw, err := tun.SyscallConn()
	if err != nil {
		return nil, err
	}
	link := &tunLink{tun: raw}
	cerr := raw.Control(func(fd uintptr) {
		link.InjectableEndpoint, err = fdbased.NewInjectable(int(fd), mtu, stack.CapabilityRXChecksumOffload)
	})
	return link, errors.Join(cerr, err)
}

// WritePackets has the descriptor stay open until they are written.
func (l *tunLink) WritePackets(packets stack.PacketBufferList) (n int, err tcpip.Error) {
	if l.peer != nil {
		return l.peer.sendAll(l.tun, packets)
	}
	if l.tun.Control(func(uintptr) { n, err = l.InjectableEndpoint.WritePackets(packets) }) != nil {
		return 0, &tcpip.ErrClosedForSend{}
	}
	return n, err
}
