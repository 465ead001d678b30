package client

import (
	"context"

	"github.com/moby/buildkit/session"
	sessionexporter "github.com/moby/buildkit/session/exporter"
)

// HasExporters reports whether a session would name outputs when it has seen the result.
func (c *Client) HasExporters(ctx context.Context) bool {
	method := session.MethodURL(sessionexporter.Exporter_ServiceDesc.ServiceName, "findexporters")
	return c.each(ctx, method, nil, func(session.Caller) error { return nil }) == nil
}
