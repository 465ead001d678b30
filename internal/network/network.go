// Package network gives processes a network of their own with a way out.
//
// # Structure
//
// A [Namespace] is a network namespace of the kernel with one interface, eth0, and what is sent there
// arrives in this process (namespace.go). A TCP/IP stack in user space, gVisor's, takes it (stack.go): it
// ends each connection and makes another one from here to where the first one wanted (tcp.go, udp.go),
// if that is allowed (address.go). This is how slirp4netns, pasta and rootless Docker reach the outside. What breaks the
// stack breaks its network alone (contain.go).
//
// A bridge with address translation in the kernel would be the other way. It needs the host to
// forward packets, which opens it as a router to its neighbours, rules in its firewall, which other
// rules undo, a range of addresses that nobody else has, and somebody who takes all of that away after
// a crash. Here nothing of the host changes, and what is made is gone with the process, whatever ends it.
//
// # Caveats
//
// The outside sees connections of this process: they have the host's addresses and pass the host's rules
// for what it sends itself. Only TCP and UDP pass.
package network

import (
	"net"
	"net/netip"
	"slices"
)

// The addresses in a namespace. All are of 192.0.0.0/29, which RFC 7335 sets aside for translation
// inside of a host, so that none is missed outside, and they are the same everywhere, so that what a
// process notes of them is.
var (
	// Gateway stands for the host: what listens there on all addresses, or on that of its way out,
	// is reached here. What listens on the host's loopback alone is not.
	Gateway = netip.AddrFrom4([4]byte{192, 0, 0, 1})
	// address is the namespace's own.
	address = netip.AddrFrom4([4]byte{192, 0, 0, 2})
	// address6 is the namespace's own where the host has a way out for IPv6. It is a local one
	// (RFC 4193): programs prefer IPv4 to it.
	address6 = netip.MustParseAddr("fd73:6c69:7077::2")
	// resolvers stand for the host's name servers, as many as resolv.conf(5) may have.
	resolvers = [...]netip.Addr{
		netip.AddrFrom4([4]byte{192, 0, 0, 3}), netip.AddrFrom4([4]byte{192, 0, 0, 4}), netip.AddrFrom4([4]byte{192, 0, 0, 5}),
	}
)

// Resolvers returns the addresses at which n name servers of the host are reached from a namespace.
func Resolvers(n int) []netip.Addr { return resolvers[:min(n, len(resolvers))] }

// mtu is what a packet of the interface may have. All connections end in this process, so that
// nothing outside of it depends on it, and large packets take less work.
const mtu = 65520

// maxPacket is the size of the largest packet that there is.
const maxPacket = 1<<16 - 1

const dnsPort = 53

// policy says where connections of a namespace go.
type policy struct {
	// servers are the host's name servers, for resolvers; nil: it has none.
	servers func() []netip.AddrPort
}

// target is what to connect to for what a process wanted; !ok: nothing.
//
// A process may have CAP_NET_RAW and send packets with whatever addresses it likes: this is the only
// thing between it and the host's loopback.
func (p *policy) target(want netip.AddrPort) (target netip.AddrPort, ok bool) {
	if i := slices.Index(resolvers[:], want.Addr()); i >= 0 {
		return p.server(i, want.Port())
	}
	if want.Addr() == Gateway {
		host, ok := outward("udp4", "192.0.2.1:9")
		return netip.AddrPortFrom(host, want.Port()), ok
	}
	return want, outside(want.Addr())
}

// server is what to connect to for a port of the resolver i.
func (p *policy) server(i int, port uint16) (target netip.AddrPort, ok bool) {
	if port != dnsPort || p.servers == nil {
		return target, false
	}
	servers := p.servers()
	if i >= len(servers) {
		return target, false
	}
	return servers[i], true
}

// outside reports whether an address can be somebody's that a process may talk to. What is neither
// unicast nor valid beyond a link is not: Linux takes 0.0.0.0 and :: for the loopback, for example.
func outside(a netip.Addr) bool {
	switch {
	case a.Is4In6() || a.Zone() != "":
		return false
	case a.Is4() && a.As4()[0] == 0, a == address, a == address6:
		return false
	}
	return a.IsGlobalUnicast() || a.Is4() && a.IsLinkLocalUnicast() // where clouds have their metadata
}

// outward is the host's address on the way to another one. Nothing is sent.
func outward(network, to string) (netip.Addr, bool) {
	conn, err := net.Dial(network, to)
	if err != nil {
		return netip.Addr{}, false
	}
	defer conn.Close()
	local := conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
	// The own ones are those of a host that is itself in a network of this package.
	return local, outside(local) || local == address || local == address6
}
