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

// Tune sets the bounds of a transport that do not depend on who is spoken to.
func Tune(t *http.Transport) {
	t.MaxResponseHeaderBytes = MaxHeaderBytes
	if t.ResponseHeaderTimeout == 0 {
		t.ResponseHeaderTimeout = DefaultPace.Stall
	}
}
