package control

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"sync"

	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/session/grpchijack"
	"github.com/moby/buildkit/util/grpcerrors"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
)

// sessionID is the header with the ID of a session.
const sessionID = "x-docker-expose-session-uuid"

// maxSessionID is how long such an ID may be. BuildKit's have 25 letters.
const maxSessionID = 256

// sessions are the IDs of those that are open.
type sessions struct {
	most int

	mu  sync.Mutex
	ids map[string]bool
}

// open takes an ID. A session that is open is not another client's to replace: what it gives is its builds' alone.
func (o *sessions) open(id string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case id == "" || len(id) > maxSessionID:
		return invalidf("invalid session ID of %d bytes: want 1 to %d", len(id), maxSessionID)
	case o.ids[id]:
		return grpcerrors.WrapCode(fmt.Errorf("session %s already exists", id), codes.AlreadyExists)
	case len(o.ids) >= o.most:
		return grpcerrors.WrapCode(fmt.Errorf("%d sessions are open, which is as many as may be", o.most), codes.ResourceExhausted)
	}
	if o.ids == nil {
		o.ids = map[string]bool{}
	}
	o.ids[id] = true
	return nil
}

func (o *sessions) close(id string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.ids, id)
}

// Session turns a stream around: the client serves on it until it, or the connection, ends.
func (s *Server) Session(stream controlapi.Control_SessionServer) error {
	md, _ := metadata.FromIncomingContext(stream.Context())
	ids := md.Get(sessionID)
	if len(ids) != 1 {
		return invalidf("a session has one ID, not %d", len(ids))
	}
	if err := s.sessions.open(ids[0]); err != nil {
		return err
	}
	raw, _, opts := grpchijack.Hijack(stream)
	return s.serveSession(stream.Context(), ids[0], raw, opts)
}

// OpenSession takes the ID of a session that is to be served on a connection of its own, by the headers that came before; serve serves it until it, or the
// connection, ends.
func (s *Server) OpenSession(header map[string][]string) (serve func(ctx context.Context, conn net.Conn) error, err error) {
	ids := http.Header(header).Values(sessionID)
	if len(ids) != 1 {
		return nil, invalidf("a session has one ID, not %d", len(ids))
	}
	if err := s.sessions.open(ids[0]); err != nil {
		return nil, err
	}
	return func(ctx context.Context, conn net.Conn) error { return s.serveSession(ctx, ids[0], conn, header) }, nil
}

// CloseSession gives the ID of a session back that was opened and is not served.
func (s *Server) CloseSession(header map[string][]string) {
	for _, id := range http.Header(header).Values(sessionID) {
		s.sessions.close(id)
	}
}

// serveSession serves a session whose ID was taken.
func (s *Server) serveSession(ctx context.Context, id string, raw net.Conn, header map[string][]string) error {
	conn := &sessionConn{Conn: raw, closed: make(chan struct{})}
	handled := make(chan error, 1)
	go func() {
		defer s.sessions.close(id)
		handled <- s.opt.Sessions.HandleConn(ctx, conn, header)
	}()
	select {
	case err := <-handled:
		return err
	case <-conn.closed:
		return nil
	}
}

// sessionConn tells when it is closed, so that the stream ends then: closing reads until the client stops sending, which it may
// never do, and keeps all that comes.
type sessionConn struct {
	net.Conn
	once   sync.Once
	closed chan struct{}
}

// Close implements net.Conn.
func (c *sessionConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}
