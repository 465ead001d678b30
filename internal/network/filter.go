package network

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// passes reports whether a packet is for the stack: TCP and UDP, also in fragments, without options of IP and
// headers between. Nothing else has a use here, and a process with CAP_NET_RAW could say with ICMP that only
// tiny segments get through, of which each takes a thousand times its size, or be a router.
func passes(packet []byte) bool {
	var protocol byte
	switch header.IPVersion(packet) {
	case header.IPv4Version:
		if len(packet) < header.IPv4MinimumSize || packet[0] != header.IPv4Version<<4|header.IPv4MinimumSize/4 {
			return false
		}
		protocol = packet[9]
	case header.IPv6Version:
		if len(packet) < header.IPv6MinimumSize+header.IPv6FragmentHeaderSize {
			return false
		}
		if protocol = packet[6]; protocol == unix.IPPROTO_FRAGMENT {
			protocol = packet[header.IPv6MinimumSize]
		}
	}
	return protocol == unix.IPPROTO_TCP || protocol == unix.IPPROTO_UDP
}

// leastSegment is what a process is sent in one piece at least, whatever it says that it can take: smaller ones
// would need much more memory than what is in them. The kernel takes all that come.
const leastSegment = 4 << 10

// raiseSegments has a first packet say so, and reports whether it does, as the stack reads it: one that says nothing, as
// no kernel's, would get the least that there is. The stack does not look at its checksum.
func raiseSegments(h header.TCP) bool {
	for options := h[header.TCPMinimumSize:]; len(options) > 0; {
		length := 1
		switch kind := options[0]; {
		case kind == header.TCPOptionEOL:
			options = nil
			continue
		case kind != header.TCPOptionNOP:
			if len(options) < 2 || options[1] < 2 || int(options[1]) > len(options) {
				return false
			}
			length = int(options[1])
			if kind == header.TCPOptionMSS && length == header.TCPOptionMSSLength {
				mss := options[2:length]
				binary.BigEndian.PutUint16(mss, max(binary.BigEndian.Uint16(mss), leastSegment))
			}
		}
		options = options[length:]
	}
	return header.ParseSynOptions(h[header.TCPMinimumSize:], false).MSS >= leastSegment
}
