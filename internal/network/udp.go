package network

import (
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// How long a pair of addresses is kept after its last datagram: as long as address translation in
// Linux keeps one, and shortly for questions to name servers, each of which has a port of its own.
const (
	udpIdle = 2 * time.Minute
	dnsIdle = 5 * time.Second
)

// maxDatagram is what a datagram can have.
const maxDatagram = 64 << 10

// udp passes a datagram of a process on. It never waits: what the host does not take at once is lost, as
// datagrams may be. The stack has no part in it: its queues do not count datagrams without data.
func (o *outlet) udp(id stack.TransportEndpointID, p *stack.PacketBuffer) (handled bool) {
	length := int(header.UDP(p.TransportHeader().Slice()).Length()) - header.UDPMinimumSize
	data := p.Data().AsRange().ToSlice()
	if length < 0 || length > len(data) {
		return true
	}
	pair, err := o.pairs.get(endsOf(id), o.begin)
	if err == nil {
		pair.send(data[:length])
	}
	return !errors.Is(err, errNobody) // otherwise the process is told
}

var (
	errNobody = errors.New("nobody is there")
	errEnded  = errors.New("the network has ended")
)

// pair is an address of a process and one outside that exchange datagrams.
type pair struct {
	ends ends
	out  *net.UDPConn
	last atomic.Int64 // when the last one came, in nanoseconds
}

// begin connects a pair to the outside, and has answers come back.
func (o *outlet) begin(p *pair) error {
	target, ok := o.policy.target(p.ends.wanted)
	if !ok {
		return errNobody
	}
	dialer := net.Dialer{Control: pairSocket}
	out, err := dialer.DialContext(o.ctx, "udp", target.String())
	if err != nil {
		return err
	}
	p.out = out.(*net.UDPConn)
	o.pairs.all.Go(func() {
		defer o.contain()
		defer o.pairs.end(p)
		o.answer(p)
	})
	return nil
}

// pairSocket bounds buffers, and takes away what Go allows all sockets for datagrams.
func pairSocket(network, address string, c syscall.RawConn) (err error) {
	cerr := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 0) })
	return errors.Join(cerr, err, pairBuffers.set(network, address, c))
}

func (p *pair) send(data []byte) {
	p.last.Store(time.Now().UnixNano())
	raw, err := p.out.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Write(func(fd uintptr) bool {
		_, _ = unix.SendmsgN(int(fd), data, nil, nil, unix.MSG_DONTWAIT)
		return true
	})
}

// answer passes datagrams to the process until none has come either way for a while, nobody is there, or
// the socket is closed.
func (o *outlet) answer(p *pair) {
	idle := udpIdle
	if p.ends.wanted.Port() == dnsPort {
		idle = dnsIdle
	}
	headers := header.IPv4MinimumSize + header.UDPMinimumSize
	if p.ends.process.Addr().Is6() {
		headers = header.IPv6MinimumSize + header.UDPMinimumSize
	}
	packet := make([]byte, headers+maxDatagram)
	for {
		if p.out.SetReadDeadline(time.Now().Add(idle)) != nil {
			return
		}
		n, err := p.out.Read(packet[headers:])
		now := time.Now().UnixNano()
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded) && now-p.last.Load() < int64(idle):
			continue // the other way is in use
		case err != nil:
			return
		}
		p.last.Store(now)
		p.ends.encode(packet[:headers+n])
		if err := o.write(packet[:headers+n]); err != nil && !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.ENOMEM) {
			return
		}
	}
}

// encode writes the headers of a packet to the process in front of its data.
func (e ends) encode(packet []byte) {
	from, to := tcpip.AddrFromSlice(e.wanted.Addr().AsSlice()), tcpip.AddrFromSlice(e.process.Addr().AsSlice())
	var datagram header.UDP
	if e.process.Addr().Is6() {
		datagram = packet[header.IPv6MinimumSize:]
		header.IPv6(packet).Encode(&header.IPv6Fields{PayloadLength: uint16(len(datagram)), TransportProtocol: header.UDPProtocolNumber, HopLimit: 64, SrcAddr: from, DstAddr: to})
	} else {
		datagram = packet[header.IPv4MinimumSize:]
		ip := header.IPv4(packet)
		ip.Encode(&header.IPv4Fields{TotalLength: uint16(len(packet)), TTL: 64, Protocol: uint8(header.UDPProtocolNumber), SrcAddr: from, DstAddr: to})
		ip.SetChecksum(^ip.CalculateChecksum())
	}
	datagram.Encode(&header.UDPFields{SrcPort: e.wanted.Port(), DstPort: e.process.Port(), Length: uint16(len(datagram))})
	sum := header.PseudoHeaderChecksum(header.UDPProtocolNumber, from, to, uint16(len(datagram)))
	if sum = ^checksum.Checksum(datagram, sum); sum == 0 {
		sum = 0xffff // 0 stands for none
	}
	datagram.SetChecksum(sum)
}

// pairs are those of a namespace, of which there may be so many.
type pairs struct {
	max int

	mu   sync.Mutex
	now  map[ends]*pair
	full bool // there will be no more
	all  sync.WaitGroup
}

// get returns the pair of these ends. A new one, which begin makes, takes the place of the one that has
// been quiet for longest when there are as many as there may be.
func (s *pairs) get(e ends, begin func(*pair) error) (*pair, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.now[e]; p != nil {
		return p, nil
	}
	if s.full {
		return nil, errEnded
	}
	p := &pair{ends: e}
	if err := begin(p); err != nil {
		return nil, err
	}
	if len(s.now) >= s.max {
		s.dropQuietest()
	}
	if s.now == nil {
		s.now = map[ends]*pair{}
	}
	s.now[e] = p
	return p, nil
}

func (s *pairs) dropQuietest() {
	var quiet *pair
	for _, p := range s.now {
		if quiet == nil || p.last.Load() < quiet.last.Load() {
			quiet = p
		}
	}
	s.drop(quiet)
}

// drop is called with mu.
func (s *pairs) drop(p *pair) {
	if s.now[p.ends] == p {
		delete(s.now, p.ends)
	}
	_ = p.out.Close() // what was to be sent is sent, or lost
}

func (s *pairs) end(p *pair) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop(p)
}

// stop ends all.
func (s *pairs) stop() {
	s.mu.Lock()
	s.full = true
	for _, p := range s.now {
		s.drop(p)
	}
	s.mu.Unlock()
	s.all.Wait()
}
