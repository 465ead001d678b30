package serve

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
)

// headerTime is how long a client may take for the head of a request. How long a request takes is its own affair, and a client may keep a
// connection as long as it lives.
const headerTime = time.Minute

// webServer serves requests of HTTP/1.1 and HTTP/2, with TLS or without, among which may be calls of gRPC.
func webServer(calls *grpc.Server, act *activity, opt Options) *http.Server {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{
		Protocols: &protocols, ReadHeaderTimeout: headerTime, MaxHeaderBytes: maxHeaders, ErrorLog: nil,
		HTTP2: &http.HTTP2Config{MaxConcurrentStreams: maxCalls, SendPingTimeout: pingAfter, PingTimeout: pingTimeout},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.ProtoMajor == 2 && strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
				calls.ServeHTTP(w, r)
				return
			}
			act.request(opt.HTTP, w, r)
		}),
	}
}

// request counts a request, as calls are. One that panics, whatever its client sent, is an error to that client alone.
func (a *activity) request(h http.Handler, w http.ResponseWriter, r *http.Request) {
	if !strings.HasSuffix(r.URL.Path, "/_ping") {
		a.begin()
		defer a.end()
	}
	defer func() {
		if v := recover(); v != nil {
			if v != http.ErrAbortHandler { //nolint:errorlint // it is what net/http compares
				a.warn(fmt.Sprintf("%s %s: panic: %v", r.Method, r.URL.Path, v))
			}
			panic(http.ErrAbortHandler)
		}
	}()
	h.ServeHTTP(w, r)
}

// stopWeb lets requests come to their ends, as stop does calls.
func stopWeb(ctx context.Context, web *http.Server) error {
	late, cancel := context.WithTimeout(ctx, lastCalls)
	defer cancel()
	if err := web.Shutdown(late); err != nil {
		return web.Close()
	}
	return nil
}

// Connections is a listener at which connections come that were something else before.
type Connections struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

// NewConnections makes one.
func NewConnections() *Connections {
	return &Connections{conns: make(chan net.Conn), closed: make(chan struct{})}
}

// Serve has a connection served. It belongs to who serves it then.
func (c *Connections) Serve(conn net.Conn) {
	select {
	case c.conns <- conn:
	case <-c.closed:
		conn.Close()
	}
}

// Accept implements net.Listener.
func (c *Connections) Accept() (net.Conn, error) {
	select {
	case conn := <-c.conns:
		return conn, nil
	case <-c.closed:
		return nil, errors.Join(net.ErrClosed)
	}
}

// Close implements net.Listener.
func (c *Connections) Close() error {
	c.once.Do(func() { close(c.closed) })
	return nil
}

// Addr implements net.Listener.
func (c *Connections) Addr() net.Addr { return &net.UnixAddr{Net: "unix"} }
