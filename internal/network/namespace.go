package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Options are what a namespace is to have.
type Options struct {
	// Isolated: there is nothing but the loopback, and no way out.
	Isolated bool
	// Servers are the host's name servers, which are reached at [Resolvers], whenever one is asked: a host may
	// move to another network. They may be on its loopback.
	Servers func() []netip.AddrPort
	// Failed, unless nil, is told why there is no way out any more when that broke. Nothing of what processes wait
	// for comes after that, so they are to be ended; Close returns the error, too.
	Failed func(error)
}

// Namespace is a network namespace. The kernel drops it when it is closed and the processes in
// it are gone, also after a crash.
type Namespace struct {
	ns  *os.File
	out *outlet // nil: there is no way out
}

// New makes a namespace. It needs CAP_SYS_ADMIN and CAP_NET_ADMIN, and /dev/net/tun, or a kernel that makes pairs of interfaces,
// unless it is isolated.
func New(opt Options) (*Namespace, error) {
	n := &Namespace{}
	_, out6 := outward("udp6", "[2001:db8::1]:9")
	var tun int
	var to *peer
	var wait sync.WaitGroup
	var err error
	wait.Go(func() {
		runtime.LockOSThread() // never unlocked, so that Go ends the thread
		n.ns, tun, to, err = enter(!opt.Isolated, out6)
	})
	wait.Wait()
	if err != nil {
		return nil, fmt.Errorf("making a network namespace: %w", err)
	}
	if opt.Isolated {
		return n, nil
	}
	if n.out, err = open(tun, to, &policy{opt.Servers}, opt.Failed); err != nil {
		return nil, fmt.Errorf("making a network namespace: %w", errors.Join(err, n.ns.Close()))
	}
	return n, nil
}

// Enter moves the calling thread, to which the goroutine is locked, into the namespace.
func (n *Namespace) Enter() error {
	if err := unix.Setns(int(n.ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("entering a network namespace: %w", err)
	}
	return nil
}

// Close ends the way out and all connections that take it, when the processes in the namespace have ended.
// Unless ctx is done, what they sent and ended reaches the other side, if that takes it within some seconds;
// connections that one of them left open break. The error may be that there was no way out.
func (n *Namespace) Close(ctx context.Context) error {
	if n.out == nil {
		return n.ns.Close()
	}
	n.settle(ctx)
	return errors.Join(n.out.close(), n.ns.Close())
}

// enter makes a namespace and has the calling thread in it.
func enter(wayOut, ipv6 bool) (ns *os.File, tun int, to *peer, err error) {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return nil, -1, nil, errors.Join(os.NewSyscallError("unshare", err), forbidden(err))
	}
	ns, err = os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, -1, nil, err
	}
	tun = -1
	if wayOut {
		tun, to, err = openInterface(ns)
	}
	if err == nil {
		err = configure(wayOut, ipv6, to != nil)
	}
	if err != nil {
		err = errors.Join(err, ns.Close())
		if tun >= 0 {
			err = errors.Join(err, unix.Close(tun))
		}
		return nil, -1, nil, err
	}
	return ns, tun, to, nil
}

// tryTun is openTun; a variable for tests.
var tryTun = openTun

// openInterface makes the interface, in the one way or the other. The error of both is that of the first.
func openInterface(ns *os.File) (fd int, to *peer, err error) {
	fd, err = tryTun()
	if err == nil || !Unavailable(err) {
		return fd, nil, err
	}
	fd, to, perr := openPair(ns)
	if perr != nil {
		return -1, nil, errors.Join(err, perr)
	}
	return fd, to, nil
}

// maxNamespaces is how many network namespaces there may be: an administrator who wants none says 0.
const maxNamespaces = "/proc/sys/user/max_net_namespaces"

var errForbidden = errors.New(maxNamespaces + " is 0")

// forbidden tells one that was forbidden from one too many, for which the kernel has the same error.
func forbidden(err error) error {
	if !errors.Is(err, unix.ENOSPC) {
		return nil
	}
	limit, rerr := os.ReadFile(maxNamespaces)
	if rerr == nil && strings.TrimSpace(string(limit)) == "0" {
		return errForbidden
	}
	return nil
}

const (
	tunDevice     = "/dev/net/tun"
	interfaceName = "eth0" // as in Docker's containers
)

// openTun makes the interface. It stays until its namespace goes, which the kernel does by itself
// and not while somebody waits: closing the descriptor of one that does not stay takes tens of
// milliseconds.
func openTun() (int, error) {
	tun, err := unix.Open(tunDevice, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: tunDevice, Err: err}
	}
	req, err := unix.NewIfreq(interfaceName)
	if err == nil {
		req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = os.NewSyscallError("TUNSETIFF", unix.IoctlIfreq(tun, unix.TUNSETIFF, req))
	}
	if err == nil {
		err = os.NewSyscallError("TUNSETPERSIST", unix.IoctlSetInt(tun, unix.TUNSETPERSIST, 1))
	}
	if err != nil {
		return -1, errors.Join(err, unix.Close(tun))
	}
	return tun, nil
}

// configure gives the interfaces of the thread's namespace their addresses and routes.
func configure(wayOut, ipv6, paired bool) error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("opening a netlink socket: %w", err)
	}
	defer h.Close()
	err = h.LinkSetUp(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: 1}})
	if errors.Is(err, unix.EPERM) && !wayOut { // CAP_SYS_ADMIN makes a namespace, its interfaces are CAP_NET_ADMIN's: there is no network at all then
		return nil
	}
	if err != nil {
		return fmt.Errorf("setting the loopback up: %w", err)
	}
	if !wayOut {
		return nil
	}
	index, err := interfaceIndex()
	if err != nil {
		return fmt.Errorf("finding %s: %w", interfaceName, err)
	}
	if err := unprivileged(); err != nil {
		return err
	}
	link := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: int(index)}}
	size := mtu
	if paired {
		size = maxPacket
		if err := h.LinkSetARPOff(link); err != nil {
			return fmt.Errorf("setting %s up: %w", interfaceName, err)
		}
	}
	return setUp(h, link, size, ipv6)
}

// interfaceIndex asks for no more than that: a whole description of the interface takes longer to read.
func interfaceIndex() (uint32, error) {
	socket, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(socket)
	req, err := unix.NewIfreq(interfaceName)
	if err != nil {
		return 0, err
	}
	err = unix.IoctlIfreq(socket, unix.SIOCGIFINDEX, req)
	return req.Uint32(), err
}

func setUp(h *netlink.Handle, link netlink.Link, size int, ipv6 bool) error {
	if err := h.LinkSetMTU(link, size); err != nil {
		return fmt.Errorf("setting the MTU: %w", err)
	}
	// It has just the addresses that it gets here; with others the kernel would ask for routers.
	// Without IPv6 in the kernel there is nothing to be set.
	_ = h.LinkSetIP6AddrGenMode(link, nl.IN6_ADDR_GEN_MODE_NONE)
	if err := h.LinkSetUp(link); err != nil {
		return fmt.Errorf("setting %s up: %w", interfaceName, err)
	}
	if err := addAddress(h, link, address, Gateway); err != nil || !ipv6 {
		return err
	}
	err := addIPv6(h, link)
	if Unavailable(err) || errors.Is(err, unix.EAFNOSUPPORT) { // the host has it, but not for new namespaces
		return nil
	}
	return err
}

func addIPv6(h *netlink.Handle, link netlink.Link) error {
	if err := addAddress(h, link, address6, netip.Addr{}); err != nil {
		return err
	}
	// The kernel does this by itself, but later, and drops what comes before.
	local := &netlink.Route{LinkIndex: link.Attrs().Index, Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL, Dst: ipNet(netip.PrefixFrom(address6, 128))}
	if err := h.RouteAdd(local); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("adding the local route of %s: %w", address6, err)
	}
	return nil
}

// addAddress gives the interface an address, and all that is outside to it.
func addAddress(h *netlink.Handle, link netlink.Link, own, gateway netip.Addr) error {
	addr := &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(own, own.BitLen())), Flags: unix.IFA_F_NODAD}
	if err := h.AddrAdd(link, addr); err != nil {
		return fmt.Errorf("adding address %s: %w", own, err)
	}
	route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: &net.IPNet{IP: make(net.IP, own.BitLen()/8), Mask: net.CIDRMask(0, own.BitLen())}}
	if gateway.IsValid() {
		route.Gw, route.Flags = gateway.AsSlice(), int(netlink.FLAG_ONLINK)
	}
	if err := h.RouteAdd(route); err != nil {
		return fmt.Errorf("adding the default route of %s: %w", own, err)
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// unprivileged lets all users listen on all ports and send echo requests, as in Docker's containers. Old kernels
// cannot, in some containers nobody may, and a user namespace that does not have all groups may name no others.
func unprivileged() error {
	for _, s := range []struct{ name, value string }{{"ip_unprivileged_port_start", "0"}, {"ping_group_range", "0 2147483647"}} {
		err := os.WriteFile("/proc/sys/net/ipv4/"+s.name, []byte(s.value), 0)
		if err != nil && !Unavailable(err) && !errors.Is(err, unix.EINVAL) {
			return err
		}
	}
	return nil
}

// Unavailable reports whether err says that something cannot be had here, at any time: the kernel lacks it, or
// forbids it. What may have been used up, by a process that wanted just that, is no such error.
func Unavailable(err error) bool {
	for _, e := range []error{errForbidden, unix.EPERM, unix.EACCES, unix.EROFS, unix.ENOENT, unix.ENXIO, unix.ENODEV, unix.ENOSYS, unix.EOPNOTSUPP} {
		if errors.Is(err, e) {
			return true
		}
	}
	var call *os.SyscallError // of a kernel that does not know what it is asked for
	return errors.As(err, &call) && call.Syscall == "unshare" && errors.Is(call.Err, unix.EINVAL)
}
