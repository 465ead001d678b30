package network

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// Where nobody opens /dev/net/tun, as in most containers, the interface of a namespace is one end of a pair (veth). The other
// end is in a namespace without processes, and a socket takes from it what comes there. It has no address, so that its kernel
// answers nothing; and the process's kernel asks for none: all packets go to the other end, whatever they are for. What a socket
// sends has to fit into the interface, so that this is as large as can be.

// ownMAC is the address of the process's end, the same everywhere.
var ownMAC = net.HardwareAddr{2, 0, 0, 0, 0, 2}

// pairBuffer is how many bytes of packets wait for this process: there is nobody to be kept waiting.
const pairBuffer = 8 << 20

// peer is where packets to the process are sent on the socket of a pair; nil: they are written to a TUN device.
type peer unix.SockaddrLinklayer

// otherEnds is the namespace of the other ends of all pairs of this process. They have nothing to do with each other there: there
// is no address and no route.
var otherEnds = sync.OnceValues(func() (ns *os.File, err error) {
	var made sync.WaitGroup
	made.Go(func() {
		runtime.LockOSThread() // never unlocked, so that Go ends the thread
		if err = unix.Unshare(unix.CLONE_NEWNET); err != nil {
			err = os.NewSyscallError("unshare", err)
			return
		}
		ns, err = os.Open("/proc/thread-self/ns/net")
	})
	made.Wait()
	return ns, err
})

// allPairs counts those of this process.
var allPairs atomic.Int64

// openPair makes an interface for the namespace ns, which the calling thread is in, with a socket for its packets.
func openPair(ns *os.File) (socket int, to *peer, err error) {
	others, err := otherEnds()
	if err != nil {
		return -1, nil, err
	}
	if err := unix.Setns(int(others.Fd()), unix.CLONE_NEWNET); err != nil {
		return -1, nil, os.NewSyscallError("setns", err)
	}
	socket, to, err = makePair(ns)
	if berr := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); berr != nil {
		err = errors.Join(err, os.NewSyscallError("setns", berr))
	}
	if err != nil && socket >= 0 {
		err = errors.Join(err, unix.Close(socket))
	}
	return socket, to, err
}

// makePair makes the pair in the namespace of the other end.
func makePair(ns *os.File) (socket int, to *peer, err error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return -1, nil, fmt.Errorf("opening a netlink socket: %w", err)
	}
	defer h.Close()
	otherEnd := fmt.Sprint("slipway", allPairs.Add(1)%1e6)
	link := netlink.NewVeth(netlink.LinkAttrs{Name: otherEnd, MTU: maxPacket})
	link.PeerName, link.PeerHardwareAddr, link.PeerNamespace, link.PeerMTU = interfaceName, ownMAC, netlink.NsFd(int(ns.Fd())), maxPacket
	if err := h.LinkAdd(link); err != nil {
		return -1, nil, fmt.Errorf("making a pair of interfaces: %w", err)
	}
	other, err := h.LinkByName(otherEnd)
	if err != nil {
		return -1, nil, fmt.Errorf("finding an interface: %w", err)
	}
	_ = h.LinkSetIP6AddrGenMode(other, nl.IN6_ADDR_GEN_MODE_NONE) // without IPv6 in the kernel there is nothing to be set
	if err := h.LinkSetUp(other); err != nil {
		return -1, nil, fmt.Errorf("setting an interface up: %w", err)
	}
	socket, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, nil, os.NewSyscallError("socket", err)
	}
	_ = unix.SetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, pairBuffer) // an old kernel has less
	// The kernel drops what goes through its queue until it has noticed, in its own time, that the process's end is up.
	_ = unix.SetsockoptInt(socket, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1)
	err = errors.Join(
		os.NewSyscallError("setsockopt", unix.SetsockoptInt(socket, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1)),
		os.NewSyscallError("bind", unix.Bind(socket, &unix.SockaddrLinklayer{Protocol: networkOrder(unix.ETH_P_ALL), Ifindex: other.Attrs().Index})),
	)
	to = &peer{Ifindex: other.Attrs().Index, Halen: uint8(len(ownMAC))}
	copy(to.Addr[:], ownMAC)
	return socket, to, err
}

func networkOrder(v uint16) uint16 { return v<<8 | v>>8 }

// send sends a packet to the process. One that there is no room for is lost, as on any network, and so is a datagram by IPv6
// that with its headers is larger than what an interface can take.
func (p *peer) send(conn syscall.RawConn, parts [][]byte) error {
	to := unix.SockaddrLinklayer(*p)
	to.Protocol = networkOrder(unix.ETH_P_IP)
	if header.IPVersion(parts[0]) == header.IPv6Version {
		to.Protocol = networkOrder(unix.ETH_P_IPV6)
	}
	var err error
	cerr := conn.Control(func(fd uintptr) { _, err = unix.SendmsgBuffers(int(fd), parts, nil, &to, unix.MSG_DONTWAIT) })
	for _, lost := range []error{unix.EAGAIN, unix.ENOBUFS, unix.EMSGSIZE, unix.ENETDOWN, unix.ENXIO} {
		if errors.Is(err, lost) {
			return cerr
		}
	}
	return errors.Join(cerr, err)
}

// sendAll sends packets of a stack.
func (p *peer) sendAll(conn syscall.RawConn, packets stack.PacketBufferList) (n int, _ tcpip.Error) {
	for _, packet := range packets.AsSlice() {
		if p.send(conn, packet.AsSlices()) != nil {
			return n, &tcpip.ErrClosedForSend{}
		}
		n++
	}
	return n, nil
}
