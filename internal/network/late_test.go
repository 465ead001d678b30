package network

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// What the stack writes late, as a refused connection does, is written nowhere: another file has the descriptor's
// number by then.
func TestNothingIsWrittenLate(t *testing.T) {
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	written := os.NewFile(uintptr(pipe[0]), "pipe")
	defer written.Close()
	number, err := unix.FcntlInt(uintptr(pipe[1]), unix.F_DUPFD_CLOEXEC, 500) // which nothing else here gets
	if err := errors.Join(err, unix.Close(pipe[1])); err != nil {
		t.Fatal(err)
	}
	o := &outlet{policy: &policy{}, tun: os.NewFile(uintptr(number), tunDevice)}
	s, link, err := o.newStack()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Destroy()
	before := holding(t)
	refused := ipv4SYN(netip.AddrPortFrom(resolvers[0], 80))
	inject(link, refused)
	packet := make([]byte, mtu)
	n, err := written.Read(packet)
	if err != nil {
		t.Fatal(err)
	}
	if tcp := header.TCP(packet[header.IPv4MinimumSize:n]); tcp.Flags()&header.TCPFlagRst == 0 {
		t.Fatalf("a connection that is refused gets %s, want a reset", tcp.Flags())
	}
	if err := o.tun.Close(); err != nil {
		t.Fatal(err)
	}
	other, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if err := unix.Dup3(int(other.Fd()), number, unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(number)
	inject(link, refused)
	for end := soon(); runtime.NumGoroutine() > before.goroutines; runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatal("the connection is not over")
		}
	}
	info, err := other.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() != 0 {
		t.Errorf("%d bytes were written to the file that has the number", info.Size())
	}
}

// socketOutlet is an outlet on a socket, and who is at its other end.
func socketOutlet(t *testing.T, p *policy) (*outlet, *os.File) {
	t.Helper()
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	process := os.NewFile(uintptr(ends[1]), "process")
	t.Cleanup(func() { _ = process.Close() })
	o, err := open(ends[0], nil, p, nil)
	if err != nil {
		t.Fatal(err)
	}
	return o, process
}

// A connection to the outside that comes about when all others were ended does not hold the end up, although the
// process never answers: there is none any more.
func TestLateConnectionHoldsNobodyUp(t *testing.T) {
	addr := serve(t, hostAddr.String()+":0", func(*net.TCPConn) {})
	late, connecting, goOn := netip.AddrPortFrom(addr.Addr(), 1), make(chan struct{}), make(chan struct{})
	good := connect
	t.Cleanup(func() { connect = good })
	connect = func(ctx context.Context, to netip.AddrPort, b hostBuffers) (*net.TCPConn, error) {
		if to != late {
			return good(ctx, to, b)
		}
		close(connecting)
		<-goOn
		return good(context.Background(), addr, b)
	}
	o, process := socketOutlet(t, &policy{})
	packet := make([]byte, mtu)
	receive := func(want header.TCPFlags) {
		t.Helper()
		for flags := header.TCPFlags(0); flags&want != want; {
			n, err := process.Read(packet)
			if err != nil {
				t.Fatal(err)
			}
			flags = header.TCP(packet[header.IPv4MinimumSize:n]).Flags()
		}
	}
	for _, p := range [][]byte{ipv4SYN(addr), ipv4SYN(late)} {
		if _, err := process.Write(p); err != nil {
			t.Fatal(err)
		}
	}
	<-connecting
	receive(header.TCPFlagSyn | header.TCPFlagAck)
	closed := make(chan error, 1)
	go func() { closed <- o.close() }()
	receive(header.TCPFlagRst) // all that there are have been ended
	close(goOn)
	select {
	case err := <-closed:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Fatal("the network does not end")
	}
}
