package docker

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/network"

	"github.com/slipway-build/slipway/internal/container"
	"github.com/slipway-build/slipway/internal/store"
	"github.com/slipway-build/slipway/internal/view"
)

// networkID is the ID of one of the networks that there are, which are the same in every store.
func networkID(name string) string {
	sum := sha256.Sum256([]byte("slipway network " + name))
	return hex.EncodeToString(sum[:])
}

// builtin are the networks that there always are. Containers of the first are not in it together: each has its own.
func builtin() (all []network.Network) {
	for _, n := range []struct{ name, driver string }{{"bridge", "bridge"}, {"host", "host"}, {"none", "null"}} {
		all = append(all, network.Network{
			Name: n.name, ID: networkID(n.name), Created: time.Unix(0, 0).UTC(), Scope: "local", Driver: n.driver, EnableIPv4: true, IPAM: network.IPAM{Driver: "default", Config: []network.IPAMConfig{}},
			Options: map[string]string{}, Labels: map[string]string{},
		})
	}
	all[1].IPAM.Config, all[2].IPAM.Config = nil, nil
	return all
}

// isBuiltin reports whether a network is one of those.
func isBuiltin(n network.Network) bool { return n.ID == networkID(n.Name) }

// networkOf describes a network that a client has made.
func networkOf(n container.Network) network.Network {
	var a network.CreateRequest
	_ = json.Unmarshal(n.Docker, &a) // it was written by this
	out := network.Network{
		Name: n.Name, ID: n.ID, Created: n.Created, Scope: "local", Driver: "bridge", EnableIPv4: a.EnableIPv4 == nil || *a.EnableIPv4, EnableIPv6: a.EnableIPv6 != nil && *a.EnableIPv6,
		IPAM: network.IPAM{Driver: "default"}, Internal: n.Internal, Attachable: a.Attachable, Options: a.Options, Labels: a.Labels,
	}
	if a.IPAM != nil {
		out.IPAM = *a.IPAM
	}
	if out.IPAM.Driver == "" {
		out.IPAM.Driver = "default"
	}
	if out.IPAM.Config == nil {
		out.IPAM.Config = []network.IPAMConfig{}
	}
	for _, m := range []*map[string]string{&out.Options, &out.Labels} {
		if *m == nil {
			*m = map[string]string{}
		}
	}
	return out
}

// networks are all: those that there always are, and those that clients have made.
func (s *Server) networks(m *container.Manager) ([]network.Network, error) {
	all := builtin()
	made, err := m.Networks()
	for _, n := range made {
		all = append(all, networkOf(n))
	}
	return all, err
}

// listNetworks answers GET /networks.
func (s *Server) listNetworks(ctx context.Context, r *request) error {
	args, err := r.args("driver", "id", "label", "name", "scope", "type", "dangling")
	if err != nil {
		return err
	}
	ctx, b, err := r.backend(ctx)
	if err != nil {
		return err
	}
	m := s.manager(b)
	list, err := s.networks(m)
	if err != nil {
		return err
	}
	dangling, err := oneBool(args, "dangling")
	if err != nil {
		return err
	}
	for _, v := range args["type"] {
		if v != "builtin" && v != "custom" {
			return invalidf("invalid filter 'type=%s'", v)
		}
	}
	users := map[string][]store.Container{}
	if dangling != nil {
		if users, err = m.NetworkUsers(ctx); err != nil {
			return err
		}
	}
	all := []any{}
	for _, n := range list {
		if dangling != nil {
			used := isBuiltin(n) || slices.ContainsFunc(users[n.ID], func(c store.Container) bool { return m.State(c.ID).Running })
			if used == *dangling {
				continue
			}
		}
		switch {
		case !networkWanted(n, args):
		case r.before("1.28"): // with its containers
			one, err := networkInspect(ctx, m, n)
			if err != nil {
				return err
			}
			all = append(all, one)
		default:
			all = append(all, network.Summary{Network: n})
		}
	}
	return r.answer(http.StatusOK, all)
}

// networkWanted reports whether filters let a network through.
func networkWanted(n network.Network, args view.Args) bool {
	return fit(args, n.Labels, func(key, v string) bool {
		switch key {
		case "driver":
			return n.Driver == v
		case "id":
			return strings.HasPrefix(n.ID, v)
		case "name":
			return strings.Contains(n.Name, v)
		case "scope":
			return n.Scope == v
		case "type":
			return isBuiltin(n) == (v == "builtin")
		}
		return true // dangling was looked at
	})
}

// fit reports whether filters let something through: all labels have to be there, and of the other keys one value has to fit.
func fit(args map[string][]string, labels map[string]string, fits func(key, value string) bool) bool {
	for key, values := range args {
		if key != "label" && key != "label!" && !slices.ContainsFunc(values, func(v string) bool { return fits(key, v) }) {
			return false
		}
	}
	return view.FitLabels(args, labels)
}

// oneBool is a filter that may be given once, and is true or false; nil: it is not there.
func oneBool(args view.Args, key string) (*bool, error) {
	var is bool
	switch values := args[key]; {
	case len(values) == 0:
		return nil, nil
	case slices.Equal(values, []string{"true"}), slices.Equal(values, []string{"1"}):
		is = true
	case !slices.Equal(values, []string{"false"}) && !slices.Equal(values, []string{"0"}):
		return nil, invalidf("invalid filter '%s=%s'", key, values)
	}
	return &is, nil
}

// findNetwork finds one by its name, its ID or the beginning of it.
func (s *Server) findNetwork(m *container.Manager, name string) (network.Network, error) {
	made, err := m.Networks()
	if err != nil {
		return network.Network{}, err
	}
	return findNetwork(made, name)
}

// findNetwork finds one of those that there always are, or that clients have made.
func findNetwork(made []container.Network, name string) (network.Network, error) {
	for _, n := range builtin() {
		if name == n.Name || name == n.ID {
			return n, nil
		}
	}
	own, err := container.FindNetwork(made, name)
	if err == nil {
		return networkOf(own), nil
	}
	for _, n := range builtin() {
		if len(name) >= 4 && strings.HasPrefix(n.ID, name) {
			return n, nil
		}
	}
	if errors.Is(err, store.ErrNotFound) {
		err = failure{http.StatusNotFound, "network " + name + " not found"}
	}
	return network.Network{}, err
}

// inspectNetwork answers GET /networks/NAME.
func (s *Server) inspectNetwork(ctx context.Context, r *request) error {
	ctx, b, err := r.backend(ctx)
	if err != nil {
		return err
	}
	m := s.manager(b)
	n, err := s.findNetwork(m, r.name)
	if err != nil {
		return err
	}
	out, err := networkInspect(ctx, m, n)
	if err != nil {
		return err
	}
	if !r.before("1.52") {
		out.Status = &network.Status{} // no subnet has addresses
	}
	return r.answer(http.StatusOK, out)
}

// networkInspect is a network with the containers that run in it.
func networkInspect(ctx context.Context, m *container.Manager, n network.Network) (*network.Inspect, error) {
	out := &network.Inspect{Network: n, Containers: map[string]network.EndpointResource{}}
	if isBuiltin(n) {
		return out, nil
	}
	users, err := m.NetworkUsers(ctx)
	if err != nil {
		return nil, err
	}
	for _, c := range users[n.ID] {
		if m.State(c.ID).Running {
			out.Containers[c.ID] = network.EndpointResource{Name: c.Name}
		}
	}
	return out, nil
}

// createNetwork answers POST /networks/create.
func (s *Server) createNetwork(ctx context.Context, r *request) error {
	var body network.CreateRequest
	if err := r.document(&body); err != nil {
		return err
	}
	switch {
	case slices.ContainsFunc(builtin(), func(n network.Network) bool { return n.Name == body.Name }):
		return failure{http.StatusForbidden, "operation is not permitted on predefined " + body.Name + " network"}
	case body.Driver == "host" || body.Driver == "null":
		return failure{http.StatusForbidden, fmt.Sprintf("only one instance of %q network is allowed", body.Driver)}
	case body.Driver != "" && body.Driver != "bridge" && body.Driver != "default":
		return failure{http.StatusNotFound, fmt.Sprintf("could not find plugin %s in v1 plugin registry: plugin not found", body.Driver)}
	case body.Scope != "" && body.Scope != "local", body.Ingress, body.ConfigOnly, body.ConfigFrom != nil:
		return failure{http.StatusNotImplemented, "slipway serves networks of this machine alone: scopes, ingress and configurations of networks are not served"}
	}
	ctx, b, err := r.backend(ctx)
	if err != nil {
		return err
	}
	m := s.manager(b)
	kept, err := json.Marshal(body)
	if err != nil {
		return err
	}
	var n container.Network
	err = locked(ctx, m.LockNetworks, func() error {
		n, err = m.MakeNetwork(container.Network{Name: body.Name, Internal: body.Internal, Docker: kept})
		return err
	})
	if err != nil {
		return err
	}
	s.events.network(events.ActionCreate, n.ID, n.Name, "")
	return r.answer(http.StatusCreated, network.CreateResponse{ID: n.ID, Warning: apart(n.Name)})
}

// apart is what is different in a network that a client has made.
func apart(name string) string {
	return "Containers of the network " + name + " do not reach each other: each has a network of its own."
}

// network tells of something that was done with a network, and with a container, which may be "".
func (b *bus) network(action events.Action, id, name, container string) {
	kind := "bridge"
	for _, n := range builtin() {
		if n.ID == id {
			kind = n.Driver
		}
	}
	attributes := map[string]string{"name": name, "type": kind}
	if container != "" {
		attributes["container"] = container
	}
	b.tell(events.NetworkEventType, action, id, attributes)
}

// removeNetwork answers DELETE /networks/NAME.
func (s *Server) removeNetwork(ctx context.Context, r *request) error {
	ctx, b, err := r.backend(ctx)
	if err != nil {
		return err
	}
	m := s.manager(b)
	if err := locked(ctx, m.LockNetworks, func() error { return s.forgetNetwork(ctx, m, r.name) }); err != nil {
		return err
	}
	return r.done()
}

// forgetNetwork removes a network. The caller has [container.Manager.LockNetworks].
func (s *Server) forgetNetwork(ctx context.Context, m *container.Manager, name string) error {
	n, err := s.findNetwork(m, name)
	if err != nil {
		return err
	}
	if isBuiltin(n) {
		return failure{http.StatusForbidden, n.Name + " is a pre-defined network and cannot be removed"}
	}
	users, err := m.NetworkUsers(ctx)
	if err != nil {
		return err
	}
	if err := m.RemoveNetwork(container.Network{Name: n.Name, ID: n.ID}, users[n.ID], false); err != nil {
		return err
	}
	s.events.network(events.ActionDestroy, n.ID, n.Name, "")
	return nil
}

// pruneNetworks answers POST /networks/prune: what no container has goes.
func (s *Server) pruneNetworks(ctx context.Context, r *request) error {
	args, err := r.args("until", "label", "label!")
	if err != nil {
		return err
	}
	filter, err := view.ParseContainerFilter(args) // which has the same keys
	if err != nil {
		return invalidf("%v", err)
	}
	ctx, b, err := r.backend(ctx)
	if err != nil {
		return err
	}
	m := s.manager(b)
	var report network.PruneReport
	if err := locked(ctx, m.LockNetworks, func() error { return s.forgetUnused(ctx, m, filter, &report) }); err != nil {
		return err
	}
	s.events.tell(events.NetworkEventType, events.ActionPrune, "", map[string]string{"reclaimed": "0"})
	return r.answer(http.StatusOK, report)
}

// forgetUnused removes the networks that no container has, of those that a filter lets through. The caller has [container.Manager.LockNetworks].
func (s *Server) forgetUnused(ctx context.Context, m *container.Manager, filter view.ContainerFilter, report *network.PruneReport) error {
	list, err := m.Networks()
	if err != nil {
		return err
	}
	users, err := m.NetworkUsers(ctx)
	if err != nil {
		return err
	}
	for _, n := range list {
		labels := networkOf(n).Labels
		young := slices.ContainsFunc(filter.Until, func(t time.Time) bool { return !n.Created.Before(t) })
		if young || !view.HasLabels(labels, filter.Labels) || len(filter.NotLabels) > 0 && view.HasLabels(labels, filter.NotLabels) {
			continue
		}
		switch rerr := m.RemoveNetwork(n, users[n.ID], true); {
		case rerr == nil:
			report.NetworksDeleted = append(report.NetworksDeleted, n.Name)
			s.events.network(events.ActionDestroy, n.ID, n.Name, "")
		case !errors.Is(rerr, container.ErrNetworkInUse):
			err = errors.Join(err, rerr)
		}
	}
	return err
}
