package outbound

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"sync"
)

// Reach keeps servers from sending requests to places that only this machine reaches: services on
// loopback, and those at link-local addresses, among them the metadata of clouds. Who asks may name
// any address; a server may name one of these only when it is at one of the kind itself. What counts is
// the address that was connected to, not the name.
//
// Its zero value is ready. It is for one transport.
type Reach struct {
	mu   sync.Mutex
	near map[string]bool // hosts that were asked for and are on loopback or link-local themselves
}

// Guard makes a transport heed the rule, for requests that come by way of the RoundTripper that it
// gives.
func (r *Reach) Guard(t *http.Transport) http.RoundTripper {
	dial := t.DialContext
	if dial == nil {
		dial = (&net.Dialer{}).DialContext
	}
	t.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		if err := r.check(ctx, conn.RemoteAddr()); err != nil {
			return nil, errors.Join(err, conn.Close())
		}
		return conn, nil
	}
	return &guarded{t}
}

// guarded tells the dialer what a connection is for.
type guarded struct{ *http.Transport }

// RoundTrip implements http.RoundTripper.
func (g *guarded) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	way, ok := ctx.Value(wayKey{}).(way)
	if !ok {
		way.own = first(req)
	}
	way.target = HostPort(req.URL)
	if g.Proxy != nil { // then the address of the connection is that of the proxy, which has rules of its own
		if u, err := g.Proxy(req); err == nil {
			way.proxied = u != nil
		}
	}
	return g.Transport.RoundTrip(req.WithContext(context.WithValue(ctx, wayKey{}, way)))
}

// first is where a request was sent by who asked, before any redirect.
func first(req *http.Request) string {
	for req.Response != nil && req.Response.Request != nil {
		req = req.Response.Request
	}
	return HostPort(req.URL)
}

type wayKey struct{}

// way is what a connection is made for.
type way struct {
	own     string // host and port that was asked for
	target  string // where the request goes
	proxied bool
}

// Sent marks a request as sent on by the server of an address, without a redirect: to a token
// service, or the place of an upload.
func Sent(ctx context.Context, by *url.URL) context.Context {
	return context.WithValue(ctx, wayKey{}, way{own: HostPort(by)})
}

func (r *Reach) check(ctx context.Context, addr net.Addr) error {
	way, ok := ctx.Value(wayKey{}).(way)
	if !ok || way.proxied {
		return nil
	}
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		return nil
	}
	near := nearby(tcp.AddrPort().Addr())
	r.mu.Lock()
	defer r.mu.Unlock()
	if way.target == way.own {
		if r.near == nil {
			r.near = map[string]bool{}
		}
		r.near[way.own] = near
		return nil
	}
	if near && !r.near[way.own] {
		return &reachError{own: way.own, target: way.target, addr: tcp.IP.String()}
	}
	return nil
}

// nearby reports whether an address means something else on each machine or network segment.
func nearby(a netip.Addr) bool {
	a = a.Unmap()
	return a.IsLoopback() || a.IsLinkLocalUnicast() || a.IsUnspecified()
}

// reachError is a request that a server has sent to a place that is not its affair.
type reachError struct{ own, target, addr string }

func (e *reachError) Error() string {
	return fmt.Sprintf("%s sends us on to %s (%s), which only this machine reaches: a server may not do that", e.own, e.target, e.addr)
}

// IsBeyondReach reports whether err is that a server has sent a request to a place that it may not name.
func IsBeyondReach(err error) bool {
	var e *reachError
	return errors.As(err, &e)
}
