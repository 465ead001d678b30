package client

import (
	"context"
	"fmt"
)

// host is the client of one session for all builds that read its directories: those of bake have one session for a directory
// that they have in common, which is listed once then.
type host struct {
	client *Client
	key    string
	refs   int // clients that are not closed; guarded by Kept.mu
	live   int // of them those whose build is not over; guarded by Kept.mu
}

// host gives the one of a session to another client. It reads that session alone: what else a client has is its own builds'.
func (k *Kept) host(c *Client, id string) *host {
	key := fmt.Sprintf("%q %q", c.opt.Owner, id)
	k.mu.Lock()
	defer k.mu.Unlock()
	h := k.hosts[key]
	if h == nil || h.client.ctx.Err() != nil {
		opt := c.opt
		opt.IDs = nil
		h = &host{client: New(context.Background(), opt), key: key}
		k.hosts[key] = h
	}
	h.refs++
	h.live++
	return h
}

// hostOf gives the host of a session that sources name; nil is none, as it was when the session was first named: it is waited for
// as any other one.
func (c *Client) hostOf(id string) (*host, error) {
	c.mu.Lock()
	f := c.hosts[id]
	if f == nil && c.hosts != nil {
		f = begin(func() (*host, error) {
			caller, err := c.caller(c.ctx, id)
			if err != nil || !caller.Supports(diffCopy) {
				return nil, context.Cause(c.ctx)
			}
			h := c.opt.Kept.host(c, id)
			context.AfterFunc(c.ctx, func() { c.opt.Kept.rest(h, context.Cause(c.ctx)) })
			return h, nil
		})
		c.hosts[id] = f
	}
	c.mu.Unlock()
	if f == nil {
		return nil, errClosed
	}
	return f.wait(c.ctx)
}

// leave ends the use of a session's host, if there is one.
func (c *Client) leave(ctx context.Context, f *future[*host]) error {
	<-f.done
	if f.value == nil {
		return nil
	}
	return c.opt.Kept.leave(ctx, f.value)
}

// rest notes that one of the builds is over: when all are, nothing more is waited for.
func (k *Kept) rest(h *host, cause error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if h.live--; h.live == 0 {
		h.client.cancel(cause)
	}
}

// leave ends the use by a client, and closes the host after the last one.
func (k *Kept) leave(ctx context.Context, h *host) error {
	k.mu.Lock()
	h.refs--
	last := h.refs == 0
	if last && k.hosts[h.key] == h {
		delete(k.hosts, h.key)
	}
	k.mu.Unlock()
	if last {
		return h.client.Close(ctx)
	}
	return nil
}
