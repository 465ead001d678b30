package docker

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"

	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/network"

	"github.com/slipway-build/slipway/internal/container"
	"github.com/slipway-build/slipway/internal/sandbox"
	"github.com/slipway-build/slipway/internal/store"
)

// connectNetwork answers POST /networks/NAME/connect.
func (s *Server) connectNetwork(ctx context.Context, r *request) error {
	var body network.ConnectRequest
	if err := r.document(&body); err != nil {
		return err
	}
	return s.changeNetworks(ctx, r, body.Container, events.ActionConnect, func(j container.Joined, c store.Container, in []container.Joined, a *asked) ([]container.Joined, error) {
		in = slices.DeleteFunc(in, func(other container.Joined) bool { return other.Name == j.Name && other.ID != j.ID }) // that one was removed
		switch {
		case slices.Contains(in, j):
			return nil, failure{http.StatusForbidden, fmt.Sprintf("endpoint with name %s already exists in network %s", c.Name, j.Name)}
		case j.Name == "host" || len(in) > 0 && alone(j.Name) || slices.ContainsFunc(in, func(other container.Joined) bool { return alone(other.Name) }):
			return nil, failure{http.StatusForbidden, "a container of the network host or none cannot be connected to others, nor others to these"}
		}
		if body.EndpointConfig != nil {
			if a.Nets == nil {
				a.Nets = map[string]*network.EndpointSettings{}
			}
			a.Nets[j.Name] = body.EndpointConfig
		}
		return append(in, j), nil
	})
}

// disconnectNetwork answers POST /networks/NAME/disconnect.
func (s *Server) disconnectNetwork(ctx context.Context, r *request) error {
	var body network.DisconnectRequest
	if err := r.document(&body); err != nil {
		return err
	}
	return s.changeNetworks(ctx, r, body.Container, events.ActionDisconnect, func(j container.Joined, c store.Container, in []container.Joined, a *asked) ([]container.Joined, error) {
		same := func(other container.Joined) bool { return other.Name == j.Name }
		switch {
		case j.Name == "host":
			return nil, failure{http.StatusForbidden, "container cannot be disconnected from host network or connected to host network"}
		case !slices.ContainsFunc(in, same):
			return nil, failure{http.StatusForbidden, fmt.Sprintf("container %s is not connected to the network %s", c.ID, j.Name)}
		}
		delete(a.Nets, j.Name)
		return slices.DeleteFunc(in, same), nil
	})
}

// alone reports whether a container that is in this network is in no other one.
func alone(name string) bool { return name == "host" || name == "none" }

// joined is a network as it is kept of a container that is in it.
func joined(n network.Network) container.Joined {
	if isBuiltin(n) {
		return container.Joined{Name: n.Name}
	}
	return container.Joined{Name: n.Name, ID: n.ID}
}

// idOf is the ID of a network that a container is in.
func idOf(j container.Joined) string {
	if j.ID == "" {
		return networkID(j.Name)
	}
	return j.ID
}

// changeNetworks changes the networks of a container, and tells of that; it is disconnected from one that was removed, too. While it runs, what it reaches cannot change.
func (s *Server) changeNetworks(ctx context.Context, r *request, who string, action events.Action, change func(j container.Joined, c store.Container, in []container.Joined, a *asked) ([]container.Joined, error)) error {
	name := r.name
	r.name = who
	ctx, m, c, err := r.container(ctx)
	if err != nil {
		return err
	}
	var changed container.Joined
	err = locked(ctx, m.LockNetworks, func() error {
		made, err := m.Networks()
		if err != nil {
			return err
		}
		running := m.State(c.ID).Running
		return m.Configure(ctx, c, func(config *container.Config) error {
			j, err := toChange(made, name, config, action == events.ActionDisconnect)
			if err != nil {
				return err
			}
			changed = j
			a := askedFor(config)
			in, err := change(j, c, slices.Clone(config.In()), &a)
			if err != nil {
				return err
			}
			before := config.Network
			setNetworks(made, config, in)
			if config.Network != before && running {
				return failure{http.StatusNotImplemented, "slipway does not change what a container reaches while it runs: stop it first"}
			}
			config.Docker, err = json.Marshal(a)
			return err
		})
	})
	if err != nil {
		return err
	}
	s.events.network(action, idOf(changed), changed.Name, c.ID)
	return r.ok()
}

// toChange is the network of a name or an ID: one of those that there are, or with gone one that a container is in and that was removed.
func toChange(made []container.Network, name string, config *container.Config, gone bool) (container.Joined, error) {
	n, err := findNetwork(made, name)
	for _, j := range config.Joined {
		if gone && (err == nil && j.Name == n.Name || err != nil && status(err) == http.StatusNotFound && (j.Name == name || j.ID == name)) {
			return j, nil
		}
	}
	if err != nil {
		return container.Joined{}, err
	}
	return joined(n), nil
}

// setNetworks puts a container in networks; what is in internal ones alone, or in none, has no way out.
func setNetworks(made []container.Network, config *container.Config, in []container.Joined) {
	config.Network, config.Joined = sandbox.NetworkNone, append([]container.Joined{}, in...)
	if len(in) == 1 && in[0].ID == "" {
		config.Network, config.Joined = sandbox.Network(in[0].Name), nil
		return
	}
	for _, j := range in {
		if j.Name == "bridge" || slices.ContainsFunc(made, func(n container.Network) bool { return n.ID == j.ID && !n.Internal }) {
			config.Network = sandbox.NetworkBridge
		}
	}
}
