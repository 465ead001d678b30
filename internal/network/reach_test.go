package network

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// soon ends what waits for something that never comes.
func soon() time.Time { return time.Now().Add(30 * time.Second) }

func TestReachesOutside(t *testing.T) {
	n := namespace(t, Options{})
	for _, listen := range []string{hostAddr.String(), otherAddr.String(), loAddr.String(), "[" + hostAddr6.String() + "]"} {
		addr := serve(t, listen+":0", hello)
		c, err := dial(t, n, "tcp", addr.String())
		if err != nil {
			t.Errorf("connecting to %s: %v", addr, err)
			continue
		}
		if text, err := io.ReadAll(c); err != nil || string(text) != "hello" {
			t.Errorf("reading from %s: got %q, %v", addr, text, err)
		}
	}
}

func TestGateway(t *testing.T) {
	n := namespace(t, Options{})
	for listen, reached := range map[string]bool{"0.0.0.0": true, hostAddr.String(): true, "127.0.0.1": false, otherAddr.String(): false} {
		addr := serve(t, listen+":0", hello)
		c, err := dial(t, n, "tcp", netip.AddrPortFrom(Gateway, addr.Port()).String())
		if (err == nil) != reached {
			t.Errorf("the gateway for what listens on %s: got error %v; reached should be %v", addr, err, reached)
		}
		if err == nil {
			if text, err := io.ReadAll(c); err != nil || string(text) != "hello" {
				t.Errorf("reading from %s: got %q, %v", addr, text, err)
			}
		}
	}
}

// What breaks looks broken, on both sides; what ends looks ended.
func TestEnds(t *testing.T) {
	n := namespace(t, Options{})
	addr := serve(t, hostAddr.String()+":0", func(c *net.TCPConn) {
		text, err := io.ReadAll(c) // until the process has ended its side
		if err == nil {
			_, err = c.Write(append([]byte("got "), text...))
		}
		if err != nil {
			t.Error(err)
		}
		_ = c.Close()
	})
	c, err := dial(t, n, "tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, "half"); err != nil {
		t.Fatal(err)
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(c); err != nil || string(text) != "got half" {
		t.Errorf("after half of a connection ended: got %q, %v", text, err)
	}

	broken := serve(t, hostAddr.String()+":0", func(c *net.TCPConn) {
		_, _ = io.WriteString(c, "part")
		_, _ = io.ReadFull(c, make([]byte, 4)) // they have it
		_ = c.SetLinger(0)
		_ = c.Close()
	})
	if c, err = dial(t, n, "tcp", broken.String()); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, "more"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(c); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("after the server broke the connection: got %v, want a reset", err)
	}

	told := make(chan error, 1)
	addr = serve(t, hostAddr.String()+":0", func(c *net.TCPConn) {
		_, _ = io.WriteString(c, "go")
		_, err := io.ReadAll(c)
		told <- err
	})
	if c, err = dial(t, n, "tcp", addr.String()); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 2)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(c.(*net.TCPConn).SetLinger(0), c.Close()); err != nil {
		t.Fatal(err)
	}
	if err := <-told; !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("after the process broke the connection: the server got %v, want a reset", err)
	}
}

func TestRefused(t *testing.T) {
	n := namespace(t, Options{})
	l, err := net.Listen("tcp", hostAddr.String()+":0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := dial(t, n, "tcp", addr); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("connecting to nobody: got %v, want it refused", err)
	}
}

// answerUDP sends back what comes.
func answerUDP(t *testing.T, addr string) netip.AddrPort {
	t.Helper()
	c, err := net.ListenPacket("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	go func() {
		buf := make([]byte, maxDatagram)
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = c.WriteTo(buf[:n], from)
		}
	}()
	return c.LocalAddr().(*net.UDPAddr).AddrPort()
}

func exchange(t *testing.T, n *Namespace, addr string, question []byte) error {
	t.Helper()
	c, err := dial(t, n, "udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.SetDeadline(soon()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write(question); err != nil {
		return err
	}
	buf := make([]byte, maxDatagram)
	got, err := c.Read(buf)
	if err == nil && !bytes.Equal(buf[:got], question) {
		err = errors.New("got something else than what was sent")
	}
	return err
}

func TestDatagrams(t *testing.T) {
	n := namespace(t, Options{})
	for _, listen := range []string{hostAddr.String(), "[" + hostAddr6.String() + "]"} {
		addr := answerUDP(t, listen+":0")
		for _, size := range []int{0, 1, 1400, 60000, 65507} {
			if size > 65535-48 && listen[0] == '[' && os.Getenv(toPair) != "" {
				continue // it does not fit
			}
			if err := exchange(t, n, addr.String(), bytes.Repeat([]byte{'u'}, size)); err != nil {
				t.Errorf("%d bytes to %s: %v", size, addr, err)
			}
		}
	}
}

func always(servers ...netip.AddrPort) func() []netip.AddrPort {
	return func() []netip.AddrPort { return servers }
}

// The host's name servers are reached wherever they are, and nothing else beside them.
func TestResolvers(t *testing.T) {
	loop := answerUDP(t, "127.0.0.53:53")
	local := answerUDP(t, "127.0.0.1:5353")
	var servers atomic.Pointer[[]netip.AddrPort]
	servers.Store(&[]netip.AddrPort{loop, netip.AddrPortFrom(hostAddr, 53)})
	n := namespace(t, Options{Servers: func() []netip.AddrPort { return *servers.Load() }})
	at := Resolvers(2)
	if err := exchange(t, n, netip.AddrPortFrom(at[0], 53).String(), []byte("question")); err != nil {
		t.Errorf("asking the name server on the loopback: %v", err)
	}
	if err := exchange(t, n, netip.AddrPortFrom(at[0], local.Port()).String(), []byte("question")); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("another port of the name server's address: got %v, want it refused", err)
	}
	for _, moved := range []string{"203.0.113.1", "[fe80::1%out0]"} {
		servers.Store(&[]netip.AddrPort{loop, answerUDP(t, moved+":53")})
		if err := exchange(t, n, netip.AddrPortFrom(at[1], 53).String(), []byte("question")); err != nil {
			t.Errorf("after the host's name server became %s: %v", moved, err)
		}
	}
	servers.Store(&[]netip.AddrPort{loop})
	if err := exchange(t, n, netip.AddrPortFrom(at[1], 53).String(), []byte("question")); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("the second name server, of which there is none any more: got %v, want it refused", err)
	}
	if got := Resolvers(9); len(got) != 3 {
		t.Errorf("got %d addresses of name servers, want as many as resolv.conf may have", len(got))
	}
}

func TestTargets(t *testing.T) {
	p := &policy{servers: always(netip.MustParseAddrPort("127.0.0.53:53"))}
	for want, to := range map[string]string{
		"198.51.100.7:80": "198.51.100.7:80", "169.254.169.254:80": "169.254.169.254:80", "[2001:db8:1::7]:80": "[2001:db8:1::7]:80",
		"10.0.0.1:22": "10.0.0.1:22", "192.0.0.3:53": "127.0.0.53:53", "192.0.0.1:80": hostAddr.String() + ":80",
		"127.0.0.1:80": "", "127.9.9.9:80": "", "0.0.0.0:80": "", "0.1.2.3:80": "", "255.255.255.255:80": "", "224.0.0.1:80": "",
		"[::]:80": "", "[::1]:80": "", "[::ffff:127.0.0.1]:80": "", "[::ffff:198.51.100.7]:80": "", "[ff02::1]:80": "", "[fe80::1]:80": "",
		"192.0.0.2:80": "", "[fd73:6c69:7077::2]:80": "", "192.0.0.3:80": "", "192.0.0.4:53": "",
	} {
		got, ok := p.target(netip.MustParseAddrPort(want))
		if ok != (to != "") || ok && got.String() != to {
			t.Errorf("%s: got %s, %v; want %q", want, got, ok, to)
		}
	}
}

// ipv4UDP is a packet as a process with CAP_NET_RAW can make it.
func ipv4UDP(to netip.AddrPort) []byte {
	p := make([]byte, 28, 32)
	p[0], p[8], p[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(p[2:], uint16(cap(p)))
	copy(p[12:], address.AsSlice())
	copy(p[16:], to.Addr().AsSlice())
	sum := uint32(0)
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(p[i:]))
	}
	sum = sum>>16 + sum&0xffff
	binary.BigEndian.PutUint16(p[10:], ^uint16(sum+sum>>16))
	binary.BigEndian.PutUint16(p[20:], 4242)
	binary.BigEndian.PutUint16(p[22:], to.Port())
	binary.BigEndian.PutUint16(p[24:], 12) // no checksum, which UDP allows
	return append(p, "evil"...)
}

func TestForgedPacketsDoNotReachTheLoopback(t *testing.T) {
	n := namespace(t, Options{})
	victim, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer victim.Close()
	witness, err := net.ListenPacket("udp", hostAddr.String()+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer witness.Close()
	port := victim.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	err = in(t, n, func() error {
		return sendPackets(
			ipv4UDP(netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)),
			ipv4UDP(netip.AddrPortFrom(netip.IPv4Unspecified(), port)),
			ipv4UDP(witness.LocalAddr().(*net.UDPAddr).AddrPort()),
		)
	})
	if err != nil {
		t.Fatal(err)
	}
	// The last packet has arrived, so the others have.
	buf := make([]byte, 100)
	if err := witness.SetReadDeadline(soon()); err != nil {
		t.Fatal(err)
	}
	if n, _, err := witness.ReadFrom(buf); err != nil || string(buf[:n]) != "evil" {
		t.Fatalf("the packet that may pass: got %q, %v", buf[:n], err)
	}
	if err := victim.SetReadDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if got, err := peek(victim); err != nil || got > 0 {
		t.Errorf("what listens on the host's loopback got %d bytes, %v", got, err)
	}
}

// A connection from an address that nobody has never comes about. It does not hold up the end of the network.
func TestForgedConnectionHoldsNobodyUp(t *testing.T) {
	n, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", hostAddr.String()+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	err = in(t, n, func() error {
		return sendPackets(ipv4SYN(l.Addr().(*net.TCPAddr).AddrPort()))
	})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := l.Accept() // slipway has connected, and answers the address that nobody has
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	closed := make(chan error, 1)
	go func() { closed <- n.Close(context.Background()) }()
	select {
	case err := <-closed:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Fatal("the network does not end")
	}
}

// sendPackets sends IPv4 packets as they are from the namespace of the calling thread.
func sendPackets(packets ...[]byte) error {
	index, err := interfaceIndex()
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for _, p := range packets {
		sa := &unix.SockaddrLinklayer{Protocol: 0x0008, Ifindex: int(index)} // IPv4, big endian
		if err := unix.Sendto(fd, p, 0, sa); err != nil {
			return err
		}
	}
	return nil
}

// ipv4SYN asks for a connection from an address of somebody else.
func ipv4SYN(to netip.AddrPort, data ...byte) []byte {
	return ipv4SYNWith([]byte{header.TCPOptionMSS, header.TCPOptionMSSLength, 16, 0}, to, data...)
}

func ipv4SYNWith(options []byte, to netip.AddrPort, data ...byte) []byte {
	size := header.IPv4MinimumSize + header.TCPMinimumSize
	b := append(append(make([]byte, size), options...), data...)
	ip := header.IPv4(b)
	ip.Encode(&header.IPv4Fields{TotalLength: uint16(len(b)), TTL: 64, Protocol: uint8(header.TCPProtocolNumber),
		SrcAddr: tcpip.AddrFrom4([4]byte{10, 9, 9, 9}), DstAddr: tcpip.AddrFrom4(to.Addr().As4())})
	ip.SetChecksum(^ip.CalculateChecksum())
	header.TCP(b[header.IPv4MinimumSize:]).Encode(&header.TCPFields{SrcPort: 4444, DstPort: to.Port(), SeqNum: 1,
		DataOffset: uint8(header.TCPMinimumSize + len(options)), Flags: header.TCPFlagSyn, WindowSize: 1000})
	return b
}

// peek is the size of what has arrived.
func peek(c net.PacketConn) (n int, err error) {
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		return 0, err
	}
	cerr := raw.Control(func(fd uintptr) {
		n, _, err = unix.Recvfrom(int(fd), make([]byte, 100), unix.MSG_DONTWAIT|unix.MSG_PEEK)
	})
	if errors.Is(err, unix.EAGAIN) {
		return 0, cerr
	}
	return n, errors.Join(err, cerr)
}

func TestIsolated(t *testing.T) {
	n := namespace(t, Options{Isolated: true})
	addr := serve(t, hostAddr.String()+":0", hello)
	for _, to := range []string{addr.String(), netip.AddrPortFrom(Gateway, addr.Port()).String()} {
		if _, err := dial(t, n, "tcp", to); !errors.Is(err, unix.ENETUNREACH) {
			t.Errorf("connecting to %s: got %v, want no way there", to, err)
		}
	}
}

// A process that sends nothing costs no stack, also when the kernel would like to say something.
func TestSilence(t *testing.T) {
	n, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	if n.out.started.Load() {
		t.Error("something was sent through a namespace that nobody used")
	}
}

func TestCloseBreaksConnections(t *testing.T) {
	n, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	told := make(chan error, 1)
	addr := serve(t, hostAddr.String()+":0", func(c *net.TCPConn) {
		_, err := io.ReadAll(c)
		told <- err
	})
	if _, err := dial(t, n, "tcp", addr.String()); err != nil {
		t.Fatal(err)
	}
	if err := n.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := <-told; !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("the server got %v, want a reset", err)
	}
}

// hostState is what of the host could be changed.
func hostState(t *testing.T) []string {
	t.Helper()
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	var state []string
	for _, l := range links {
		state = append(state, l.Attrs().Name)
	}
	routes, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range routes {
		state = append(state, r.String())
	}
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		state = append(state, fmt.Sprint("address ", a.IPNet, " of ", a.LinkIndex))
	}
	rules, err := netlink.RuleList(netlink.FAMILY_ALL)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rules {
		state = append(state, r.String())
	}
	// The kernel counts changes of the firewall. It may have none.
	firewall := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETGEN, 0)
	firewall.AddData(&nl.Nfgenmsg{})
	generation, _ := firewall.Execute(unix.NETLINK_NETFILTER, 0)
	for _, g := range generation {
		id := g[nl.SizeofNfgenmsg:]
		state = append(state, fmt.Sprintf("firewall %x", id[:min(len(id), 8)])) // then come the process and its name
	}
	settings := 0
	err = filepath.WalkDir("/proc/sys/net", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasSuffix(path, "_count") { // of connections
			return err
		}
		if value, err := os.ReadFile(path); err == nil { // some can only be written to
			state = append(state, path+" "+string(value))
			settings++
		}
		return nil
	})
	if err != nil || settings == 0 {
		t.Fatalf("%d settings: %v", settings, err)
	}
	return state
}

func TestHostIsUnchanged(t *testing.T) {
	before := hostState(t)
	unchanged := func(when string) {
		t.Helper()
		for _, now := range hostState(t) {
			if !slices.Contains(before, now) {
				t.Errorf("of the host's interfaces, routes, addresses, rules and settings is new %s: %q", when, now)
			}
		}
	}
	addr := serve(t, hostAddr.String()+":0", hello)
	err := useOnce(t, func(n *Namespace) error {
		_, err := dial(t, n, "tcp", addr.String())
		unchanged("with a network")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	unchanged("after it")
	if after := hostState(t); len(after) != len(before) {
		t.Errorf("the host had %d interfaces, routes, addresses, rules and settings, and has %d", len(before), len(after))
	}
}
