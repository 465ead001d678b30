package client

import (
	"context"

	"github.com/moby/buildkit/sourcepolicy/policysession"

	"github.com/slipway-build/slipway/internal/outbound"
)

// CheckPolicy has one session decide about a source, or say what it wants to know first. A session that is not there, or does not
// answer, is an error: nothing is allowed then.
func (c *Client) CheckPolicy(ctx context.Context, id string, req *policysession.CheckPolicyRequest) (*policysession.CheckPolicyResponse, error) {
	ctx, cancel := c.bound(ctx, 0) // it may ask servers whom signatures are of
	defer cancel()
	caller, err := c.caller(ctx, id)
	if err != nil {
		return nil, explain(ctx, err, "asking the client's policy")
	}
	resp, err := policysession.NewPolicyVerifierClient(caller.Conn()).CheckPolicy(caller.Context(ctx), req)
	return resp, explain(ctx, err, "asking the client's policy about %s", outbound.Clean(req.Source.GetSource().GetIdentifier()))
}
