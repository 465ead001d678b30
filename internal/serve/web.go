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

	"github.com/slipway-build/slipway/internal/serve/control"
)

// headerTime is how long a client may take for the head of a request. How long a request takes is its own affair, and a client may keep a
// connection as long as it lives.
const headerTime = time.Minute

// web serves requests of HTTP/1.1 and HTTP/2, with TLS or without, among which may be calls of gRPC.
type web struct {
	http.Server
	cancel  context.CancelCauseFunc
	handled sync.WaitGroup
}

func newWeb(calls *grpc.Server, act *activity, opt Options) *web {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	ctx, cancel := context.WithCancelCause(context.Background())
	w := &web{cancel: cancel}
	w.Server = http.Server{
		Protocols: &protocols, ReadHeaderTimeout: headerTime, MaxHeaderBytes: maxHeaders, BaseContext: func(net.Listener) context.Context { return ctx },
		HTTP2: &http.HTTP2Config{MaxConcurrentStreams: maxCalls, SendPingTimeout: pingAfter, PingTimeout: pingTimeout},
		Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if r.ProtoMajor == 2 && strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
				calls.ServeHTTP(rw, r.WithContext(control.Engine(r.Context())))
				return
			}
			w.handled.Add(1)
			defer w.handled.Done()
			act.request(opt.HTTP, rw, r)
		}),
	}
	if opt.HTTPEnds != nil {
		w.RegisterOnShutdown(opt.HTTPEnds)
	}
	return w
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

// stop lets requests come to their ends for some time, as stop does calls. Those that are left are ended then, sessions among them, which live as long as their
// clients.
func (w *web) stop(ctx context.Context) error {
	late, cancel := context.WithTimeout(ctx, lastCalls)
	defer cancel()
	var err error
	if w.Shutdown(late) != nil {
		err = w.Close()
	}
	w.cancel(errors.New("the server ends"))
	over := make(chan struct{})
	go func() {
		w.handled.Wait()
		close(over)
	}()
	select {
	case <-over:
	case <-time.After(cancelled):
	}
	return err
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
	case c.conns <- engineConn{conn}:
	case <-c.closed:
		conn.Close()
	}
}

// engineConn tells by whom it came.
type engineConn struct{ net.Conn }

// RemoteAddr implements net.Conn.
func (c engineConn) RemoteAddr() net.Addr { return control.EngineAddr{Addr: c.Conn.RemoteAddr()} }

// Accept implements net.Listener.
func (c *Connections) Accept() (net.Conn, error) {
	select {
	case conn := <-c.conns:
		return conn, nil
	case <-c.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (c *Connections) Close() error {
	c.once.Do(func() { close(c.closed) })
	return nil
}

// Addr implements net.Listener.
func (c *Connections) Addr() net.Addr { return &net.UnixAddr{Net: "unix"} }
