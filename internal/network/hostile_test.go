package network

import (
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"testing"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// hostile makes packets like a process that has studied the stack: mostly right, and wrong in one place.
type hostile struct {
	*rand.Rand
	tcp, udp netip.AddrPort
	seen     []byte // the last packet that the stack has sent
}

func (h *hostile) pick(of ...int) int { return of[h.IntN(len(of))] }

func (h *hostile) packet() []byte {
	data := make([]byte, h.pick(0, 0, 1, 8, 100, 3000))
	var p []byte
	if h.IntN(4) == 0 {
		p = h.datagram(data)
	} else {
		p = h.segment(data)
	}
	if h.IntN(3) == 0 { // a fragment
		binary.BigEndian.PutUint16(p[4:], uint16(h.IntN(3)))
		binary.BigEndian.PutUint16(p[6:], uint16(h.pick(0x2000, 0, 1, 0x2001, 0x1fff, 0x3fff, 100, 0x2002)))
	}
	if h.IntN(3) == 0 {
		p[h.IntN(len(p))] = byte(h.Uint32())
	}
	if h.IntN(20) == 0 {
		p = p[:h.IntN(len(p)+1)]
	}
	if len(p) >= header.IPv4MinimumSize && h.IntN(8) != 0 {
		ip := header.IPv4(p)
		ip.SetTotalLength(uint16(len(p)))
		ip.SetChecksum(0)
		ip.SetChecksum(^checksum.Checksum(p[:header.IPv4MinimumSize], 0))
	}
	return p
}

func (h *hostile) ip(to netip.Addr, protocol tcpip.TransportProtocolNumber, size int) header.IPv4 {
	p := make([]byte, header.IPv4MinimumSize+size)
	ip := header.IPv4(p)
	ip.Encode(&header.IPv4Fields{TotalLength: uint16(len(p)), TTL: 64, Protocol: uint8(protocol), SrcAddr: tcpip.AddrFrom4(address.As4()), DstAddr: tcpip.AddrFrom4(to.As4())})
	return ip
}

func (h *hostile) datagram(data []byte) []byte {
	ip := h.ip(h.udp.Addr(), header.UDPProtocolNumber, header.UDPMinimumSize+len(data))
	header.UDP(ip[header.IPv4MinimumSize:]).Encode(&header.UDPFields{SrcPort: uint16(h.pick(1, 2, 3)), DstPort: h.udp.Port(), Length: uint16(h.pick(8+len(data), 8, 0, 7, 65535))})
	return ip
}

func (h *hostile) segment(data []byte) []byte {
	options := [][]byte{nil, {2, 4, 0, 1}, {3, 3, 14, 0}, {4, 2, 1, 1}, {5, 10, 0, 0, 0, 0, 255, 255, 255, 255, 0, 0}, {8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0}, {2, 4, 255, 255, 3, 3, 255, 4, 2, 1, 1, 1}, {2, 0, 0, 0}}[h.IntN(8)]
	size := header.TCPMinimumSize + len(options)
	ip := h.ip(h.tcp.Addr(), header.TCPProtocolNumber, size+len(data))
	f := &header.TCPFields{SrcPort: uint16(1000 + h.IntN(4)), DstPort: h.tcp.Port(), SeqNum: uint32(h.pick(0, 1, 2, 1<<31, 1<<32-1, 100, 3001)), AckNum: uint32(h.pick(0, 1, 1<<31)), DataOffset: uint8(size),
		Flags: header.TCPFlags(h.pick(2, 2, 16, 16, 17, 4, 20, 24, 1, 0, 3, 18, 63, 255)), WindowSize: uint16(h.pick(0, 1, 65535))}
	if len(h.seen) >= header.IPv4MinimumSize+header.TCPMinimumSize && h.IntN(3) != 0 { // an answer
		seen := header.TCP(h.seen[header.IPv4MinimumSize:])
		f.SrcPort, f.AckNum = seen.DestinationPort(), seen.SequenceNumber()+uint32(h.pick(0, 1, 1, 1, 2, 100, 1<<31))
		f.SeqNum = seen.AckNumber() + uint32(h.pick(0, 0, 0, 0, 1, 100, 3000, 1<<32-1))
		f.Flags = header.TCPFlags(h.pick(16, 16, 16, 24, 17, 4, 20, 48))
	}
	tcp := header.TCP(ip[header.IPv4MinimumSize:])
	tcp.Encode(f)
	copy(tcp[header.TCPMinimumSize:], options)
	return ip
}

// No packet ends the program, as a panic in the stack would, or leaves something behind.
func TestHostilePackets(t *testing.T) {
	addr := serve(t, hostAddr.String()+":0", func(c *net.TCPConn) {
		defer c.Close()
		_, _ = c.Write(pattern(1 << 20))
		_ = c.CloseWrite()
		_, _ = io.Copy(io.Discard, c)
	})
	h := &hostile{Rand: rand.New(rand.NewPCG(1, 2)), tcp: addr, udp: answerUDP(t, hostAddr.String()+":0")}
	before := holding(t)
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	process := os.NewFile(uintptr(ends[1]), "process")
	defer process.Close()
	o, err := open(ends[0], nil, &policy{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, maxDatagram)
	for range 20000 {
		for n := 0; n >= 0; {
			if n, _, _ = unix.Recvfrom(ends[1], buf, unix.MSG_DONTWAIT); n > 9 && buf[9] == byte(header.TCPProtocolNumber) {
				h.seen = append(h.seen[:0], buf[:n]...)
			}
		}
		if p := h.packet(); len(p) > 0 {
			if _, err := process.Write(p); err != nil {
				t.Fatal(err)
			}
		}
	}
	if count(&o.tcpFlows) == 0 {
		t.Error("no connection came about")
	}
	if err := errors.Join(o.close(), process.Close()); err != nil {
		t.Error(err)
	}
	returnsTo(t, before)
}
