package docker

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"strconv"

	containertypes "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"github.com/slipway-build/slipway/internal/container"
	"github.com/slipway-build/slipway/internal/store"
	"github.com/slipway-build/slipway/internal/view"
)

// listContainers answers GET /containers/json.
func (s *Server) listContainers(ctx context.Context, r *request) error {
	args, err := r.args("ancestor", "before", "exited", "id", "label", "name", "network", "since", "status", "volume", "health", "is-task", "expose", "publish", "annotation")
	if err != nil {
		return err
	}
	filter, err := view.ParseContainerFilter(args)
	if err != nil {
		return invalidf("%v", err)
	}
	if filter.Limit, err = r.number("limit", 0); err != nil {
		return err
	}
	filter.All, filter.Limit = r.flag("all"), max(filter.Limit, 0)
	ctx, b, err := r.backend(ctx)
	if err != nil {
		return err
	}
	m := s.manager(b)
	for _, name := range args["network"] { // by its ID as well
		if n, err := s.findNetwork(m, name); err == nil {
			filter.Networks = append(filter.Networks, cmp.Or(joined(n).ID, n.Name))
		}
	}
	if filter.Wanted, err = s.wanted(ctx, m.Store, args); err != nil {
		return err
	}
	list, err := view.Containers(ctx, m, filter)
	if err != nil {
		return err
	}
	all := []containertypes.Summary{}
	for _, c := range list {
		row, err := s.containerSummary(ctx, m, c, r.flag("size"))
		if err != nil {
			return err
		}
		if r.before("1.52") {
			row.Health = nil
		}
		if r.before("1.48") {
			row.ImageManifestDescriptor = nil
		}
		if r.before("1.46") {
			row.HostConfig.Annotations = nil
		}
		all = append(all, *row)
	}
	return r.answer(http.StatusOK, all)
}

// wanted are the filters of what only Docker's API has: no container has a health or a published port, or is a swarm's. nil is none of them.
func (s *Server) wanted(ctx context.Context, st *store.Store, args view.Args) (func(c *view.Container) bool, error) {
	for _, v := range args["health"] {
		if !slices.Contains([]string{"none", "starting", "healthy", "unhealthy"}, v) {
			return nil, invalidf("invalid filter 'health=%s'", v)
		}
	}
	exposed, err := portRanges(args["expose"])
	if err != nil {
		return nil, err
	}
	if _, err := portRanges(args["publish"]); err != nil {
		return nil, err
	}
	for _, v := range args["is-task"] {
		if _, err := strconv.ParseBool(v); err != nil {
			return nil, invalidf("invalid filter 'is-task=%s'", v)
		}
	}
	annotations := args["annotation"]
	none := len(args["health"]) > 0 && !slices.Contains(args["health"], "none") || len(args["publish"]) > 0 ||
		len(args["is-task"]) > 0 && !slices.ContainsFunc(args["is-task"], func(v string) bool { is, _ := strconv.ParseBool(v); return !is })
	if !none && len(args["expose"])+len(annotations) == 0 {
		return nil, nil
	}
	return func(c *view.Container) bool {
		if none || c.Config == nil || !view.HasLabels(annotationsOf(c.Config), annotations) {
			return false
		}
		if len(args["expose"]) == 0 {
			return true
		}
		for p := range s.containerConfig(ctx, st, c.Container, c.Config).ExposedPorts {
			if slices.ContainsFunc(exposed, func(r network.PortRange) bool {
				return p.Proto() == r.Proto() && r.Start() <= p.Num() && p.Num() <= r.End()
			}) {
				return true
			}
		}
		return false
	}, nil
}

// annotationsOf are those that a client gave a container.
func annotationsOf(config *container.Config) map[string]string {
	if h := askedFor(config).Host; h != nil {
		return h.Annotations
	}
	return nil
}

// portRanges reads ports and ranges of them, as 80/tcp and 8000-8080.
func portRanges(values []string) (all []network.PortRange, err error) {
	for _, v := range values {
		ports, err := network.ParsePortRange(v)
		if err != nil {
			return nil, invalidf("invalid filter: %q is no port and no range of them", v)
		}
		all = append(all, ports)
	}
	return all, nil
}

// containerSummary is a container in a list.
func (s *Server) containerSummary(ctx context.Context, m *container.Manager, c view.Container, size bool) (*containertypes.Summary, error) {
	row := &containertypes.Summary{
		ID: c.ID, Names: []string{"/" + c.Name}, Image: c.Image, ImageID: c.ImageID.String(), Command: c.Command(), Created: c.Created.Unix(), Ports: []containertypes.PortSummary{},
		Labels: c.Config.Labels, State: containertypes.ContainerState(c.State.Word()), Status: c.Status(), NetworkSettings: &containertypes.NetworkSettingsSummary{Networks: endpoints(c.Config)},
		Mounts: mountPoints(m, c.Config), Health: &containertypes.HealthSummary{Status: containertypes.NoHealthcheck},
	}
	for _, e := range row.NetworkSettings.Networks { // which are for inspect
		e.Aliases, e.DNSNames, e.DriverOpts, e.Links = nil, nil, nil, nil
	}
	a := askedFor(c.Config)
	if row.ImageManifestDescriptor = a.Manifest; a.Host != nil {
		row.HostConfig.Annotations = a.Host.Annotations
	}
	if row.Labels == nil {
		row.Labels = map[string]string{}
	}
	if !c.ImageIsNamed(ctx, m.Store) {
		row.Image = c.ImageID.String()
	}
	row.HostConfig.NetworkMode = networkMode(c.Config)
	if size {
		own, all, err := c.Sizes(ctx, m)
		if err != nil {
			return nil, err
		}
		row.SizeRw, row.SizeRootFs = own, all
	}
	return row, nil
}
