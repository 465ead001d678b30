package cli

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/slipway-build/slipway/internal/builders"
	"github.com/slipway-build/slipway/internal/kube"
)

const (
	builderTable = "table {{.Name}}\t{{.DriverEndpoint}}\t{{.Status}}\t{{.Buildkit}}\t{{.Platforms}}"
	nodeIndent   = ` \_ `
)

func newBuilderLsCmd(a *app) *cobra.Command {
	var format string
	var noTrunc bool
	cmd := &cobra.Command{
		Use:   "ls [OPTIONS]",
		Short: "List builder instances",
		Long:  "List the names of the builder. What stands below each of them is the same builder, on this machine.",
		Args:  exactArgs(0),
		RunE: func(*cobra.Command, []string) error {
			if format == "table" {
				format = builderTable
			}
			l, err := a.builderList()
			if err != nil {
				return err
			}
			failed, err := a.printBuilders(&l, format, noTrunc)
			for i, line := range failed {
				if i == 0 {
					fmt.Fprintln(a.stderr)
				}
				fmt.Fprintln(a.stderr, line)
			}
			return err
		},
	}
	if !a.calls(cmd) {
		return cmd
	}
	f := cmd.Flags()
	f.StringVar(&format, "format", "table", formatHelp)
	f.BoolVar(&noTrunc, "no-trunc", false, "Don't truncate output")
	statusTimeout(f)
	return cmd
}

// printBuilders lists builders, each with its node. It returns what to tell of nodes that cannot work.
func (a *app) printBuilders(l *builders.List, format string, noTrunc bool) (failed []string, err error) {
	current, err := l.Named("")
	if err != nil {
		return nil, err
	}
	own, err := l.Named(builders.Default)
	if err != nil {
		return nil, err
	}
	machine := a.machineNode()
	table := strings.HasPrefix(format, "table")
	var rows []any
	for _, b := range append(slices.Clone(l.Builders), own) {
		node := machine
		if b.Driver == kube.Scheme {
			node = clusterNode(b)
		}
		row := builderRow{Builder: builderInfo{b.Name, b.Driver, []nodeInfo{node.of(b)}, b.Name == current.Name}, table: table, trunc: table && !noTrunc}
		rows = append(rows, &row)
		if format == "json" {
			continue
		}
		below := row
		below.node = &row.Builder.Nodes[0]
		rows = append(rows, &below)
		if err := row.Builder.Nodes[0].Err; err != "" && table {
			failed = append(failed, fmt.Sprintf("Failed to get status for %s (%s): %s", b.Name, b.Node, err))
		}
	}
	return failed, printList(a.stdout, format, headers{
		"Name": "NAME/NODE", "DriverEndpoint": "DRIVER/ENDPOINT", "LastActivity": "LAST ACTIVITY", "Status": "STATUS", "Buildkit": "BUILDKIT",
		"Platforms": "PLATFORMS", "Error": "ERROR",
	}, rows)
}

// builderInfo is a builder in the JSON of buildx.
type builderInfo struct {
	Name, Driver string
	Nodes        []nodeInfo
	Current      bool
}

// builderRow is a line of `buildx ls`: of a builder, or of its node.
type builderRow struct {
	Builder builderInfo

	node         *nodeInfo // nil for the builder
	table, trunc bool
}

// MarshalJSON gives the builder with its nodes, as buildx does.
func (r *builderRow) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		builderInfo
		Dynamic      bool
		LastActivity string
	}{r.Builder, false, "0001-01-01T00:00:00Z"})
}

// Name is the builder's, the current one's with a star, or the node's.
func (r *builderRow) Name() string {
	switch {
	case r.node == nil:
		return r.Builder.Name + star(r.table && r.Builder.Current)
	case r.table:
		return nodeIndent + r.node.Name
	}
	return r.node.Name
}

// DriverEndpoint is the builder's driver, or where the node is.
func (r *builderRow) DriverEndpoint() string {
	switch {
	case r.node == nil:
		return r.Builder.Driver
	case r.table:
		return nodeIndent + r.node.Endpoint
	}
	return r.node.Endpoint
}

// LastActivity is not recorded by name.
func (r *builderRow) LastActivity() string { return "" }

// Status is the node's.
func (r *builderRow) Status() string {
	if r.node == nil {
		return ""
	}
	return r.node.Status
}

// Buildkit is the release of BuildKit whose frontend is linked in.
func (r *builderRow) Buildkit() string {
	if r.node == nil {
		return ""
	}
	return r.node.Version
}

// Platforms are those whose programs the node runs.
func (r *builderRow) Platforms() string {
	if r.node == nil {
		return ""
	}
	if r.trunc {
		return shortPlatforms(r.node.starred)
	}
	return strings.Join(r.node.starred, ", ")
}

// Error tells why the node cannot work.
func (r *builderRow) Error() string {
	if r.node == nil {
		return ""
	}
	return r.node.Err
}

// majorArchitectures come first in a short list of platforms.
var majorArchitectures = []string{"linux/amd64", "linux/arm64", "linux/arm", "linux/ppc64le", "linux/s390x", "linux/riscv64", "linux/mips64"}

// shortPlatforms lists platforms as buildx does in a table: four architectures, with the number of their variants.
func shortPlatforms(all []string) string {
	groups := map[string][]string{}
	var others []string
	for _, name := range all {
		arch := strings.TrimSuffix(name, "*")
		if parts := strings.SplitN(arch, "/", 3); len(parts) == 3 {
			arch = parts[0] + "/" + parts[1]
		}
		if len(groups[arch]) == 0 && !slices.Contains(majorArchitectures, arch) {
			others = append(others, arch)
		}
		groups[arch] = append(groups[arch], name)
	}
	slices.Sort(others)
	var out []string
	left := len(all)
	for _, arch := range append(slices.Clone(majorArchitectures), others...) {
		group := groups[arch]
		if len(group) == 0 || len(out) == 4 {
			continue
		}
		left -= len(group)
		if len(group) == 1 {
			out = append(out, group[0])
			continue
		}
		preferred := slices.ContainsFunc(group, func(name string) bool { return strings.HasSuffix(name, "*") })
		out = append(out, fmt.Sprintf("%s (+%d)", arch+star(preferred), len(group)))
	}
	if left > 0 {
		out = append(out, fmt.Sprintf("(%d more)", left))
	}
	return strings.Join(out, ", ")
}
