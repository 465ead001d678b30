package registry

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"os"
	"sync/atomic"
	"syscall"
)

// fallback speaks HTTPS to a host, and HTTP from then on when the host turns out not to speak TLS,
// whatever it says instead. Other hosts are not its affair.
type fallback struct {
	next  http.RoundTripper
	host  string
	plain *atomic.Bool
}

// RoundTrip implements http.RoundTripper.
func (f *fallback) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Host != f.host || req.URL.Scheme != "https" {
		return f.next.RoundTrip(req)
	}
	body := req.Body
	if !f.plain.Load() {
		var handshake atomic.Bool // failed, and not for what TLS itself says
		trace := &httptrace.ClientTrace{TLSHandshakeDone: func(_ tls.ConnectionState, err error) {
			if err != nil && !speaksTLS(err) {
				handshake.Store(true)
			}
		}}
		resp, err := f.next.RoundTrip(req.WithContext(httptrace.WithClientTrace(req.Context(), trace)))
		if err == nil || req.Context().Err() != nil || !handshake.Load() && !f.nobodyThere(err) {
			return resp, err
		}
		f.plain.Store(true)
		if body != nil && req.GetBody != nil { // nothing was read of it, but it was closed
			if body, err = req.GetBody(); err != nil {
				return nil, err
			}
		}
	}
	plain := *req
	plain.Body = body
	plain.URL = new(url.URL)
	*plain.URL = *req.URL
	plain.URL.Scheme = "http"
	return f.next.RoundTrip(&plain)
}

// speaksTLS reports whether a handshake failed for a reason of TLS: the host does not like us, or we do
// not like its certificate.
func speaksTLS(err error) bool {
	var alert tls.AlertError
	var remote *net.OpError
	var cert *tls.CertificateVerificationError
	var authority x509.UnknownAuthorityError
	var name x509.HostnameError
	return errors.As(err, &alert) || errors.As(err, &remote) && remote.Op == "remote error" ||
		errors.As(err, &cert) || errors.As(err, &authority) || errors.As(err, &name)
}

// nobodyThere reports whether the port of HTTPS, which nobody has named, is not served.
func (f *fallback) nobodyThere(err error) bool {
	if _, port, _ := net.SplitHostPort(f.host); port != "" {
		return false
	}
	return errors.Is(err, syscall.ECONNREFUSED) || os.IsTimeout(err)
}
