package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/sshforward"
	"google.golang.org/grpc/metadata"

	"github.com/slipway-build/slipway/internal/outbound"
	"github.com/slipway-build/slipway/internal/secrets"
)

// Agents are the client's SSH agents.
type Agents struct{ client *Client }

var _ secrets.SSH = Agents{}

// Agents returns the client's SSH agents.
func (c *Client) Agents() Agents { return Agents{c} }

// Check implements [secrets.SSH].
func (a Agents) Check(id string) error {
	_, err := a.caller(a.client.ctx, id)
	return err
}

// caller finds the session that has an agent.
func (a Agents) caller(ctx context.Context, id string) (found session.Caller, err error) {
	name := outbound.Clean(cmp.Or(id, secrets.DefaultAgent))
	method := session.MethodURL(sshforward.SSH_ServiceDesc.ServiceName, "checkagent")
	err = a.client.each(ctx, method, nil, func(caller session.Caller) error {
		ctx, cancel := a.client.bound(ctx, callTime)
		defer cancel()
		_, err := sshforward.NewSSHClient(caller.Conn()).CheckAgent(caller.Context(ctx), &sshforward.CheckAgentRequest{ID: id})
		err = explain(ctx, err, "asking the client for SSH agent %s", name)
		if err != nil && !errors.Is(err, ErrGone) && ctx.Err() == nil {
			return &failure{err.Error(), errNotServed} // buildx says so with a status that says nothing
		}
		if err == nil {
			found = caller
		}
		return err
	})
	switch {
	case err == errNotServed:
		return nil, &failure{fmt.Sprintf("no SSH key %q forwarded from the client", name), errdefs.ErrNotFound}
	case errors.Is(err, errNotServed):
		return nil, &failure{err.Error(), errdefs.ErrNotFound}
	}
	return found, err
}

// Origin implements [secrets.SSH]. An agent is nobody else's: of what it has nothing can be seen.
func (a Agents) Origin(id string) string {
	err := a.Check(id)
	if errdefs.IsNotFound(err) {
		return ""
	}
	return fmt.Sprintf("client %d", a.client.number)
}

// maxAgentConns is how many connections to an agent there may be at the same time.
const maxAgentConns = 64

// Serve implements [secrets.SSH].
func (a Agents) Serve(ctx context.Context, id string, l net.Listener) error {
	caller, err := a.caller(ctx, id)
	if err != nil {
		return err
	}
	slots := make(chan struct{}, maxAgentConns)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			slots <- struct{}{}
			go func() {
				defer func() { <-slots }()
				a.forward(ctx, caller, id, conn) // the process sees the connection end
			}()
		}
	}()
	return nil
}

// forward passes on what is said on a connection, and closes it.
func (a Agents) forward(ctx context.Context, caller session.Caller, id string, conn net.Conn) {
	ctx, cancel := context.WithCancel(caller.Context(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	defer context.AfterFunc(a.client.ctx, cancel)()
	ctx = metadata.NewOutgoingContext(ctx, metadata.Pairs(sshforward.KeySSHID, cmp.Or(id, sshforward.DefaultID)))
	stream, err := sshforward.NewSSHClient(caller.Conn()).ForwardAgent(ctx)
	if err != nil {
		conn.Close()
		return
	}
	_ = sshforward.Copy(ctx, conn, stream, stream.CloseSend)
}
