package outbound

import (
	"fmt"
	"net/http"
	"net/url"
)

// maxRedirects is how often a request is sent on. It is net/http's number.
const maxRedirects = 10

// harmless are the header fields that a request takes along to another origin: they say what is wanted.
// Authorization, cookies, and whatever a user has set for one host, are for that host alone.
var harmless = map[string]bool{
	"Accept": true, "Accept-Encoding": true, "Accept-Language": true, "User-Agent": true, "Range": true,
	"Content-Type": true, "Content-Length": true, "Content-Range": true,
	"If-Match": true, "If-None-Match": true, "If-Modified-Since": true, "If-Unmodified-Since": true, "If-Range": true,
}

// Redirect is a CheckRedirect of http.Client. A request that once was sent to another origin (host, port
// or scheme) goes on without credentials, also when it is sent back. Addresses may be signed: none is
// told to another server.
func Redirect(req *http.Request, via []*http.Request) error { return RedirectWithin(Origin, req, via) }

// RedirectWithin is Redirect with another idea of what an origin is.
func RedirectWithin[O comparable](origin func(*url.URL) O, req *http.Request, via []*http.Request) error {
	if len(via) >= maxRedirects {
		return fmt.Errorf("stopped after %d redirects", maxRedirects)
	}
	req.Header.Del("Referer")
	first := origin(via[0].URL)
	for _, r := range append(via[1:len(via):len(via)], req) {
		if origin(r.URL) != first {
			Strip(req.Header)
			break
		}
	}
	return nil
}

// Strip leaves nothing in a header that only one server may see.
func Strip(h http.Header) {
	for name := range h {
		if !harmless[http.CanonicalHeaderKey(name)] {
			delete(h, name)
		}
	}
}
