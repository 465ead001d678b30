package network

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

func TestPasses(t *testing.T) {
	packet4 := func(first, protocol byte) []byte {
		p := make([]byte, 40)
		p[0], p[9] = first, protocol
		return p
	}
	packet6 := func(next, fragment byte) []byte {
		p := make([]byte, 60)
		p[0], p[6], p[40] = 0x60, next, fragment
		return p
	}
	for _, tt := range []struct {
		name   string
		packet []byte
		want   bool
	}{
		{"TCP", packet4(0x45, unix.IPPROTO_TCP), true},
		{"UDP", packet4(0x45, unix.IPPROTO_UDP), true},
		{"TCP over IPv6", packet6(unix.IPPROTO_TCP, 0), true},
		{"UDP over IPv6", packet6(unix.IPPROTO_UDP, 0), true},
		{"a fragment over IPv6", packet6(unix.IPPROTO_FRAGMENT, unix.IPPROTO_UDP), true},
		{"nothing", nil, false},
		{"a part of a header", packet4(0x45, unix.IPPROTO_TCP)[:19], false},
		{"options", packet4(0x46, unix.IPPROTO_TCP), false},
		{"no header", packet4(0x40, unix.IPPROTO_TCP), false},
		{"ICMP", packet4(0x45, unix.IPPROTO_ICMP), false},
		{"IGMP", packet4(0x45, unix.IPPROTO_IGMP), false},
		{"IPv4 in IPv4", packet4(0x45, unix.IPPROTO_IPIP), false},
		{"a part of IPv6", packet6(unix.IPPROTO_TCP, 0)[:40], false},
		{"ICMP over IPv6", packet6(unix.IPPROTO_ICMPV6, 0), false},
		{"a fragment of ICMP over IPv6", packet6(unix.IPPROTO_FRAGMENT, unix.IPPROTO_ICMPV6), false},
		{"options of IPv6", packet6(unix.IPPROTO_HOPOPTS, 0), false},
		{"a route of IPv6", packet6(unix.IPPROTO_ROUTING, 0), false},
		{"version 5", packet4(0x55, unix.IPPROTO_TCP), false},
	} {
		if got := passes(tt.packet); got != tt.want {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
	}
}

// What has no use does not reach the stack, which would answer it.
func TestFilterIsUsed(t *testing.T) {
	o, process := socketOutlet(t, &policy{})
	nobody := netip.AddrPortFrom(resolvers[0], 80)
	packet := slices.Insert(ipv4UDP(nobody), header.IPv4MinimumSize, 1, 1, 1, 1) // options, which do nothing
	ip := header.IPv4(packet)
	ip.SetHeaderLength(header.IPv4MinimumSize + 4)
	ip.SetTotalLength(uint16(len(packet)))
	ip.SetChecksum(0)
	ip.SetChecksum(^ip.CalculateChecksum())
	for _, p := range [][]byte{packet, ipv4SYN(nobody)} { // that is answered
		if _, err := process.Write(p); err != nil {
			t.Fatal(err)
		}
	}
	answer := make([]byte, mtu)
	n, err := process.Read(answer)
	if err != nil {
		t.Fatal(err)
	}
	if got := header.IPv4(answer[:n]).Protocol(); got != unix.IPPROTO_TCP {
		t.Errorf("the first answer is one of protocol %d, want that to the connection", got)
	}
	if err := o.close(); err != nil {
		t.Error(err)
	}
}

func TestRaiseSegments(t *testing.T) {
	for _, tt := range []struct {
		options, want []byte
		passes        bool
	}{
		{nil, nil, false},
		{[]byte{2, 4, 0, 1}, []byte{2, 4, 16, 0}, true},
		{[]byte{2, 4, 0, 0}, []byte{2, 4, 16, 0}, true},
		{[]byte{2, 4, 255, 200}, []byte{2, 4, 255, 200}, true},
		{[]byte{1, 3, 3, 7, 2, 4, 0, 88, 0, 0, 0, 0}, []byte{1, 3, 3, 7, 2, 4, 16, 0, 0, 0, 0, 0}, true},
		{[]byte{2, 4, 0, 1, 2, 4, 0, 1}, []byte{2, 4, 16, 0, 2, 4, 16, 0}, true},
		{[]byte{0, 2, 4, 0, 1}, []byte{0, 2, 4, 0, 1}, false},
		{[]byte{2, 3, 0, 1}, []byte{2, 3, 0, 1}, false},
		{[]byte{2, 0, 0, 1}, []byte{2, 0, 0, 1}, false},
		{[]byte{8, 10, 0, 1}, []byte{8, 10, 0, 1}, false},
		{[]byte{3, 2, 2, 4, 16, 0}, []byte{3, 2, 2, 4, 16, 0}, false}, // the stack stops at the first
		{[]byte{2}, []byte{2}, false},
	} {
		h := append(make(header.TCP, header.TCPMinimumSize), tt.options...)
		passes := raiseSegments(h)
		if got := h[header.TCPMinimumSize:]; !bytes.Equal(got, tt.want) || passes != tt.passes {
			t.Errorf("%v: got %v, %v; want %v, %v", tt.options, []byte(got), passes, tt.want, tt.passes)
		}
	}
}

// A process that wants tiny segments gets larger ones, and everything that is in them.
func TestTinySegments(t *testing.T) {
	n := namespace(t, Options{})
	data := pattern(1 << 20)
	addr := serve(t, hostAddr.String()+":0", func(c *net.TCPConn) {
		_, _ = c.Write(data)
		_ = c.Close()
	})
	var got bytes.Buffer
	var info *unix.TCPInfo
	err := in(t, n, func() error {
		c, err := (&net.Dialer{Control: tinySegments}).DialContext(t.Context(), "tcp", addr.String())
		if err != nil {
			return err
		}
		defer c.Close()
		if _, err := got.ReadFrom(c); err != nil {
			return err
		}
		raw, err := c.(*net.TCPConn).SyscallConn()
		if err != nil {
			return err
		}
		cerr := raw.Control(func(fd uintptr) { info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) })
		return errors.Join(cerr, err)
	})
	if err != nil || !bytes.Equal(got.Bytes(), data) {
		t.Fatalf("got %d bytes of %d, %v", got.Len(), len(data), err)
	}
	if most := 2 * len(data) / leastSegment; int(info.Segs_in) > most {
		t.Errorf("%d bytes came in %d segments, want at most %d", len(data), info.Segs_in, most)
	}
}
