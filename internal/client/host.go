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

// host gives the one of a session to another client. Its other sessions are those of the first one.
func (k *Kept) host(c *Client, id string) *host {
	key := fmt.Sprintf("%q %q", c.opt.Owner, id)
	k.mu.Lock()
	defer k.mu.Unlock()
	h := k.hosts[key]
	if h == nil || h.client.ctx.Err() != nil {
		h = &host{client: New(context.Background(), c.opt), key: key}
		k.hosts[key] = h
	}
	h.refs++
	h.live++
	return h
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
