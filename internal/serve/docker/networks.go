package docker

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/moby/moby/api/types/network"

	"github.com/slipway-build/slipway/internal/container"
	"github.com/slipway-build/slipway/internal/view"
)

// networkID is the ID of one of the networks that there are, which are the same in every store.
func networkID(name string) string {
	sum := sha256.Sum256([]byte("slipway network " + name))
	return hex.EncodeToString(sum[:])
}

// networks are all. Containers of the first are not in it together: each has its own.
func networks() (all []network.Network) {
	for _, n := range []struct{ name, driver string }{{"bridge", "bridge"}, {"host", "host"}, {"none", "null"}} {
		all = append(all, network.Network{
			Name: n.name, ID: networkID(n.name), Created: time.Unix(0, 0).UTC(), Scope: "local", Driver: n.driver, EnableIPv4: true, IPAM: network.IPAM{Driver: "default", Options: map[string]string{}, Config: []network.IPAMConfig{}},
			Options: map[string]string{}, Labels: map[string]string{},
		})
	}
	return all
}

// listNetworks answers GET /networks.
func (s *Server) listNetworks(_ context.Context, r *request) error {
	args, err := r.args("driver", "id", "label", "name", "scope", "type", "dangling")
	if err != nil {
		return err
	}
	all := []network.Summary{}
	for _, n := range networks() {
		if networkWanted(n, args) {
			all = append(all, network.Summary{Network: n})
		}
	}
	return r.answer(http.StatusOK, all)
}

// networkWanted reports whether filters let a network through: one value of each key has to fit.
func networkWanted(n network.Network, args view.Args) bool {
	for key, values := range args {
		if !slices.ContainsFunc(values, func(v string) bool {
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
				return v == "builtin"
			}
			return false // they have no labels, and stay
		}) {
			return false
		}
	}
	return true
}

// findNetwork finds one by its name, its ID or the beginning of it.
func findNetwork(name string) (network.Network, error) {
	for _, n := range networks() {
		if name == n.Name || len(name) >= 4 && strings.HasPrefix(n.ID, name) {
			return n, nil
		}
	}
	return network.Network{}, failure{http.StatusNotFound, "network " + name + " not found"}
}

// inspectNetwork answers GET /networks/NAME.
func (s *Server) inspectNetwork(_ context.Context, r *request) error {
	n, err := findNetwork(r.name)
	if err != nil {
		return err
	}
	return r.answer(http.StatusOK, network.Inspect{Network: n, Containers: map[string]network.EndpointResource{}})
}

// removeNetwork answers DELETE /networks/NAME.
func (s *Server) removeNetwork(_ context.Context, r *request) error {
	n, err := findNetwork(r.name)
	if err != nil {
		return err
	}
	return failure{http.StatusForbidden, n.Name + " is a pre-defined network and cannot be removed"}
}

// pruneNetworks answers POST /networks/prune: there is nothing that could go.
func (s *Server) pruneNetworks(_ context.Context, r *request) error {
	return r.answer(http.StatusOK, network.PruneReport{NetworksDeleted: []string{}})
}

// refuseNetwork answers what would make or change one.
func (s *Server) refuseNetwork(context.Context, *request) error {
	return failure{http.StatusNotImplemented, "slipway has the networks bridge, host and none, and makes no others: a container has a network of its own with a way out, or the host's"}
}

// volumeWanted reports whether filters let a volume through: all labels have to be there, and of the other keys one value has to fit.
func volumeWanted(v container.Volume, args view.Args, used bool) bool {
	labels := volumeOf(v).Labels
	for key, values := range args {
		fits := func(string) bool { return true }
		switch key {
		case "driver":
			fits = func(value string) bool { return value == "local" }
		case "name":
			fits = func(value string) bool {
				re, err := regexp.Compile(value)
				return strings.Contains(v.Name, value) || err == nil && re.MatchString(v.Name)
			}
		case "label":
			fits = func(string) bool { return view.HasLabels(labels, values) }
		case "label!":
			fits = func(string) bool { return !view.HasLabels(labels, values) }
		case "dangling":
			fits = func(value string) bool { return used != (value == "true" || value == "1") }
		}
		if !slices.ContainsFunc(values, fits) {
			return false
		}
	}
	return true
}
