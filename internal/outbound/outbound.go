// Package outbound has the rules for speaking to servers that somebody else named, or that other
// servers name: image registries, their token services, places of uploads and servers of files.
//
// # Structure
//
// redirect.go: what a request may take along to where a server sends it. reach.go: which addresses a
// server may send it to. pace.go: how slow an answer may be.
//
// # Caveats
//
// All of it stands between an http.Client and its http.Transport, and holds for every request of the
// client. A git server is spoken to by git: internal/source/git tells it the same rules.
package outbound

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
)

// MaxHeaderBytes is the size in bytes of the largest header of an answer that is read.
const MaxHeaderBytes = 256 << 10

// Origin is the scheme, host and port of an address: what credentials are for.
func Origin(u *url.URL) string { return strings.ToLower(u.Scheme) + "://" + HostPort(u) }

// HostPort is the host of an address with its port, also where that is the usual one.
func HostPort(u *url.URL) string {
	port := u.Port()
	switch {
	case port != "":
	case strings.EqualFold(u.Scheme, "https"):
		port = "443"
	default:
		port = "80"
	}
	return strings.ToLower(strings.TrimSuffix(u.Hostname(), ".")) + ":" + port
}

// NewClient makes a client that heeds all of the rules. It is for one server: what that may reach is not another's
// affair. set, which may be nil, is given the transport before the rules are.
func NewClient(set func(*http.Transport)) *http.Client {
	t := http.DefaultTransport.(*http.Transport).Clone()
	if set != nil {
		set(t)
	}
	Tune(t)
	return &http.Client{Transport: new(Reach).Guard(t), CheckRedirect: Redirect}
}

// IsUnreachable reports whether err is that a server cannot be connected to, or is one that a server may not name:
// asking again is of no use.
func IsUnreachable(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial" || IsBeyondReach(err)
}

// StartsAt reports whether an answer says that it has a file from an offset on.
func StartsAt(resp *http.Response, offset int64) bool {
	return strings.HasPrefix(resp.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", offset))
}

// Tune sets the bounds of a transport that do not depend on who is spoken to.
func Tune(t *http.Transport) {
	t.MaxResponseHeaderBytes = MaxHeaderBytes
	if t.ResponseHeaderTimeout == 0 {
		t.ResponseHeaderTimeout = DefaultPace.Stall
	}
}
