package cli

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/containerd/platforms"
	"github.com/docker/go-units"
	"github.com/moby/buildkit/client"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"github.com/slipway-build/slipway/internal/builders"
	"github.com/slipway-build/slipway/internal/engine"
	"github.com/slipway-build/slipway/internal/kube"
	"github.com/slipway-build/slipway/internal/store"
	"github.com/slipway-build/slipway/internal/view"
)

// nodeInfo is a builder's node in the JSON of buildx. There is one, this machine.
type nodeInfo struct {
	Name, Endpoint string
	Flags          []string           `json:",omitempty"`
	DriverOpts     map[string]string  `json:",omitempty"`
	Status         string             `json:",omitempty"`
	Version        string             `json:",omitempty"`
	Err            string             `json:",omitempty"`
	Platforms      []string           `json:",omitempty"`
	GCPolicy       []client.PruneInfo `json:",omitempty"`
	Labels         map[string]string  `json:",omitempty"`

	starred []string // the platforms, with a star after those that somebody named
}

// machineNode is this machine as a node of every builder. It cannot work where its store cannot be opened.
func (a *app) machineNode() nodeInfo {
	n := nodeInfo{Endpoint: builders.Default, Status: "running", Version: buildKitRelease}
	for _, p := range engine.Platforms() {
		n.Platforms = append(n.Platforms, platforms.Format(platforms.Normalize(p)))
	}
	s, err := a.Store()
	if err != nil {
		n.Status, n.Err = "error", err.Error()
		return n
	}
	w, err := a.workerOn(s, nil, nil)
	if err != nil {
		n.Status, n.Err = "error", err.Error()
		return n
	}
	n.Labels = w.Labels
	for _, p := range w.Policies {
		n.GCPolicy = append(n.GCPolicy, client.PruneInfo(p))
	}
	return n
}

// clusterNode is what a builder of a cluster has in place of a machine: nothing runs there between builds.
func clusterNode(b builders.Builder) nodeInfo {
	return nodeInfo{Endpoint: b.Endpoint, Status: "inactive"}
}

// of is the node of one builder, with what was said of it.
func (n nodeInfo) of(b builders.Builder) nodeInfo {
	n.Name, n.Flags, n.DriverOpts = b.Node, b.Flags, b.DriverOpts
	named := len(b.Platforms)
	all := append(slices.Clone(b.Platforms), n.Platforms...)
	n.Platforms = nil
	for i, p := range all {
		if slices.Contains(n.Platforms, p) {
			continue
		}
		n.Platforms = append(n.Platforms, p)
		n.starred = append(n.starred, p+star(i < named))
	}
	return n
}

// workerOn is this machine with a store. Somebody may have named its platforms.
func (a *app) workerOn(s *store.Store, labels map[string]string, named []ocispec.Platform) (*view.Worker, error) {
	policies, err := a.policiesOf(s)
	if err != nil {
		return nil, err
	}
	if len(named) == 0 {
		named = engine.Platforms()
	}
	return view.NewWorker(s, view.WorkerOptions{Version: version(), Labels: labels, Platforms: named, Policies: policies})
}

func newBuilderInspectCmd(a *app) *cobra.Command {
	var bootstrap bool
	cmd := &cobra.Command{
		Use:   "inspect [OPTIONS] [NAME]",
		Short: "Inspect current builder instance",
		Args:  maxArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 && args[0] != "" {
				a.builder = args[0]
			}
			b, err := a.useBuilder()
			if err != nil {
				return err
			}
			if bootstrap {
				if err := a.bootBuilder(cmd.Context(), b); err != nil {
					return err
				}
			}
			return a.inspectBuilder(b, bootstrap)
		},
	}
	if !a.calls(cmd) {
		return cmd
	}
	cmd.Flags().BoolVar(&bootstrap, "bootstrap", false, "See that the builder can work: its store can be opened, its cluster admits pods")
	statusTimeout(cmd.Flags())
	return cmd
}

// bootBuilder sees that a builder can work.
func (a *app) bootBuilder(ctx context.Context, b builders.Builder) error {
	if b.Driver == kube.Scheme {
		return a.bootCluster(ctx, b)
	}
	_, err := a.Store()
	return err
}

// inspectBuilder describes a builder in the lines of buildx, which actions and scripts read.
// booted says that it is known to work.
func (a *app) inspectBuilder(b builders.Builder, booted bool) error {
	var n nodeInfo
	if b.Driver != kube.Scheme {
		n = a.machineNode()
	} else if n = clusterNode(b); booted {
		n.Status = "running"
	}
	n = n.of(b)
	w := tabwriter.NewWriter(a.stdout, 0, 0, 1, ' ', 0)
	fmt.Fprintf(w, "Name:\t%s\nDriver:\t%s\n\nNodes:\nName:\t%s\nEndpoint:\t%s\n", b.Name, b.Driver, n.Name, n.Endpoint)
	if len(n.DriverOpts) > 0 {
		var opts []string
		for _, k := range slices.Sorted(maps.Keys(n.DriverOpts)) {
			opts = append(opts, fmt.Sprintf("%s=%q", k, n.DriverOpts[k]))
		}
		fmt.Fprintf(w, "Driver Options:\t%s\n", strings.Join(opts, " "))
	}
	if n.Err != "" {
		fmt.Fprintf(w, "Error:\t%s\n", n.Err)
		return w.Flush()
	}
	fmt.Fprintf(w, "Status:\t%s\n", n.Status)
	if len(n.Flags) > 0 {
		fmt.Fprintf(w, "BuildKit daemon flags:\t%s\n", strings.Join(n.Flags, " "))
	}
	if n.Version != "" {
		fmt.Fprintf(w, "BuildKit version:\t%s\n", n.Version)
	}
	fmt.Fprintf(w, "Platforms:\t%s\nLabels:\n", strings.Join(n.starred, ", "))
	for _, k := range slices.Sorted(maps.Keys(n.Labels)) {
		fmt.Fprintf(w, "\t%s:\t%s\n", k, n.Labels[k])
	}
	for i, p := range n.GCPolicy {
		fmt.Fprintf(w, "GC Policy rule#%d:\n\tAll:\t%v\n", i, p.All)
		for _, line := range []struct {
			name, value string
			is          bool
		}{
			{"Filters", strings.Join(p.Filter, " "), len(p.Filter) > 0},
			{"Keep Duration", p.KeepDuration.String(), p.KeepDuration > 0},
			{"Reserved Space", units.BytesSize(float64(p.ReservedSpace)), p.ReservedSpace > 0},
			{"Max Used Space", units.BytesSize(float64(p.MaxUsedSpace)), p.MaxUsedSpace > 0},
			{"Min Free Space", units.BytesSize(float64(p.MinFreeSpace)), p.MinFreeSpace > 0},
		} {
			if line.is {
				fmt.Fprintf(w, "\t%s:\t%s\n", line.name, line.value)
			}
		}
	}
	return w.Flush()
}
