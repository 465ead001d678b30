package docker

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"

	"github.com/slipway-build/slipway/internal/terminal"
)

// upgrade takes the connection over, on which the client begins to speak HTTP/2 then.
func (r *request) upgrade() (net.Conn, error) {
	switch proto := r.Header.Get("Upgrade"); proto {
	case "h2c":
	case "":
		return nil, invalidf("no upgrade proto in request")
	default:
		return nil, invalidf("protocol %s not supported", terminal.Line(proto))
	}
	conn, buf, err := http.NewResponseController(r.w).Hijack()
	if errors.Is(err, http.ErrNotSupported) {
		return nil, invalidf("a connection of HTTP/2 cannot be upgraded")
	}
	if err != nil {
		return nil, err
	}
	r.began = true
	if _, err := io.WriteString(conn, "HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return &readAhead{conn, buf.Reader}, nil
}

// readAhead is a connection of which some was read already.
type readAhead struct {
	net.Conn
	r *bufio.Reader
}

// Read implements net.Conn.
func (c *readAhead) Read(p []byte) (int, error) { return c.r.Read(p) }

// grpc answers POST /grpc: BuildKit's API.
func (s *Server) grpc(_ context.Context, r *request) error {
	conn, err := r.upgrade()
	if err == nil {
		s.opt.GRPC(conn)
	}
	return err
}

// session answers POST /session: what the client offers to its builds. It ends with the connection.
func (s *Server) session(ctx context.Context, r *request) error {
	serve, err := s.opt.Control.OpenSession(r.Header)
	if err != nil {
		return invalidf("%v", err)
	}
	conn, err := r.upgrade()
	if err != nil {
		s.opt.Control.CloseSession(r.Header)
		return err
	}
	_ = serve(ctx, conn) // the client is gone, or knows
	_ = conn.Close()     // which its end may have done
	return nil
}
