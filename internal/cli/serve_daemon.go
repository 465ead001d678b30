package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/client"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/slipway-build/slipway/internal/config"
	"github.com/slipway-build/slipway/internal/isolation"
)

// The names of BuildKit's programs, by which this one is what they are: what makes it one is an image, or a directory of the
// path, with links of these names.
const (
	daemonName       = "buildkitd"
	daemonClientName = "buildctl"
)

// printDaemonVersion prints BuildKit's version line, of which clients take the third word.
func (a *app) printDaemonVersion() error {
	_, err := fmt.Fprintln(a.stdout, a.name, packagePath, buildKitRelease, version())
	return err
}

// daemonRoot is a program with BuildKit's name.
func (a *app) daemonRoot(name, short string) *cobra.Command {
	cmd := &cobra.Command{Use: name + " [OPTIONS]", Short: short, SilenceUsage: true, SilenceErrors: true, TraverseChildren: true}
	cmd.SetFlagErrorFunc(wrongFlag)
	cmd.Flags().BoolP("version", "v", false, "Print the version")
	cmd.CompletionOptions.DisableDefaultCmd = true
	templateFuncs()
	cmd.SetHelpTemplate(helpTemplate)
	cmd.SetUsageTemplate(usageTemplate)
	return cmd
}

// newDaemon is `slipway serve` with the flags and the places of BuildKit's daemon.
func newDaemon(a *app) *cobra.Command {
	opts := serving{uid: -1, mode: "0660"}
	cmd := a.daemonRoot(daemonName, "The daemon of BuildKit, by slipway serve")
	cmd.Args = cobra.NoArgs
	var rest ociFlags
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if v, err := cmd.Flags().GetBool("version"); v || err != nil {
			return errors.Join(err, a.printDaemonVersion())
		}
		if err := a.begin(cmd); err != nil {
			return err
		}
		if a.settings == nil {
			a.settings = &config.Settings{}
		}
		if opts.config == "" {
			opts.config = defaultDaemonConfig()
		}
		if err := a.daemonSettings(cmd, &opts); err != nil {
			return err
		}
		if err := rest.apply(a, cmd.Flags(), &opts); err != nil {
			return err
		}
		if len(opts.addrs) == 0 {
			opts.addrs = []string{socketOf("buildkit")}
		}
		return a.serve(cmd, &opts)
	}
	f := cmd.Flags()
	a.sharedFlags(cmd.PersistentFlags())
	opts.listenFlags(f)
	f.StringVar(&opts.config, "config", os.Getenv("BUILDKITD_CONFIG"), "Path to config file")
	f.BoolVar(&opts.insecure, "insecure", false, "Listen at tcp:// addresses without asking clients for a certificate")
	f.DurationVar(&opts.idle, "idle", 0, "End when there was no request for so long; 0 is never")
	rest.add(a, f)
	return cmd
}

// defaultDaemonConfig is BuildKit's, where it is there.
func defaultDaemonConfig() string {
	path := "/etc/buildkit/buildkitd.toml"
	if isolation.User() != 0 {
		dir, err := os.UserConfigDir()
		if err != nil {
			return ""
		}
		path = filepath.Join(dir, "buildkit", "buildkitd.toml")
	}
	if _, err := os.Stat(path); err != nil {
		return ""
	}
	return path
}

// daemonStore is where BuildKit's daemon has its state: what runs it keeps that, as buildx' drivers do.
func daemonStore() string {
	if isolation.User() == 0 {
		return "/var/lib/buildkit"
	}
	dir := os.Getenv("XDG_DATA_HOME")
	if home, err := os.UserHomeDir(); dir == "" && err == nil {
		dir = filepath.Join(home, ".local/share")
	}
	return filepath.Join(dir, "buildkit")
}

// ociFlags are flags of BuildKit's daemon about its worker.
type ociFlags struct {
	net, keep string
	gc        bool
	labels    []string
	platforms []string
}

// acceptedFlags are those that change nothing of a build, and that they do not need: "text", "list", "switch" or "number".
var acceptedFlags = map[string]string{
	"trace": "switch", "log-format": "text", "log-level": "text", "debugaddr": "text", "otel-socket-path": "text",
	"cdi-disabled": "switch", "cdi-spec-dir": "list", "save-cache-debug": "switch", "rootless": "switch",
	"oci-worker": "text", "oci-worker-snapshotter": "text", "oci-worker-proxy-snapshotter-path": "text", "oci-worker-binary": "text",
	"oci-cni-config-path": "text", "oci-cni-binary-dir": "text", "oci-cni-pool-size": "number", "oci-worker-rootless": "switch",
	"oci-worker-no-process-sandbox": "switch", "oci-worker-selinux": "switch",
	"containerd-worker": "text", "containerd-worker-addr": "text", "containerd-worker-labels": "list", "containerd-worker-namespace": "text",
	"containerd-worker-snapshotter": "text", "containerd-worker-platform": "list", "containerd-worker-net": "text",
	"containerd-cni-config-path": "text", "containerd-cni-binary-dir": "text", "containerd-cni-pool-size": "number",
	"containerd-worker-gc": "switch", "containerd-worker-gc-keepstorage": "text", "containerd-worker-apparmor-profile": "text",
	"containerd-worker-selinux": "switch", "containerd-max-parallelism": "number", "containerd-worker-rootless": "switch",
}

// ignoredFlags change something there, and nothing here: who gives one is told.
var ignoredFlags = map[string]string{"proxy-network": "switch", "oci-worker-apparmor-profile": "text"}

func (o *ociFlags) add(a *app, f *pflag.FlagSet) {
	f.StringVar(&o.net, "oci-worker-net", "", "Worker network type (auto, bridge or host)")
	f.StringVar(&o.keep, "oci-worker-gc-keepstorage", "", `Amount of storage that the cache keeps, format "Reserved[,Free[,Maximum]]" (MB)`)
	f.BoolVar(&o.gc, "oci-worker-gc", true, "Let cache go by itself")
	f.StringArrayVar(&o.labels, "oci-worker-labels", nil, "Labels of the worker (com.example.foo=bar)")
	f.StringArrayVar(&o.platforms, "oci-worker-platform", nil, "Platforms that the worker tells")
	f.IntVar(&a.maxRuns, "oci-max-parallelism", 0, "Limit the number of parallel build steps that can run at the same time")
	for _, flags := range []map[string]string{acceptedFlags, ignoredFlags} {
		for name, kind := range flags {
			switch kind {
			case "text":
				f.String(name, "", "Accepted for BuildKit's sake")
			case "list":
				f.StringArray(name, nil, "Accepted for BuildKit's sake")
			case "number":
				f.Int(name, 0, "Accepted for BuildKit's sake")
			case "switch":
				f.Bool(name, false, "Accepted for BuildKit's sake")
			}
			f.Lookup(name).Hidden = true
		}
	}
}

// apply puts what the flags say over what a file says.
func (o *ociFlags) apply(a *app, f *pflag.FlagSet, s *serving) error {
	for _, name := range slices.Sorted(maps.Keys(ignoredFlags)) {
		if v := f.Lookup(name); v.Changed && v.Value.String() != "false" {
			a.warn("--" + name + " has no effect")
		}
	}
	if f.Lookup("containerd-worker").Value.String() == "true" {
		a.warn("--containerd-worker has no effect: there is one worker, which needs no containerd")
	}
	if changed(f, "oci-worker-net") {
		a.daemonNetwork("--oci-worker-net", o.net)
	}
	if changed(f, "oci-worker-gc") {
		a.settings.GC = &o.gc
	}
	if err := o.keepStorage(a.settings); err != nil {
		return err
	}
	for _, l := range o.labels {
		k, v, ok := strings.Cut(l, "=")
		if !ok {
			return fmt.Errorf("--oci-worker-labels: invalid value %q, expecting k=v", l)
		}
		if s.labels == nil {
			s.labels = map[string]string{}
		}
		s.labels[k] = v
	}
	for _, p := range o.platforms {
		if s.platforms == nil || changed(f, "oci-worker-platform") {
			s.platforms = append(s.platforms[:len(s.platforms):len(s.platforms)], strings.Split(p, ",")...)
		}
	}
	return nil
}

// keepStorage reads "Reserved[,Free[,Maximum]]" in megabytes.
func (o *ociFlags) keepStorage(c *config.Settings) error {
	if o.keep == "" {
		return nil
	}
	parts := strings.Split(o.keep, ",")
	for i, to := range []**config.Text{&c.ReservedSpace, &c.MinFreeSpace, &c.MaxUsedSpace} {
		if i >= len(parts) {
			break
		}
		text := config.Text(parts[i])
		if !strings.HasSuffix(parts[i], "%") {
			n, err := strconv.ParseInt(parts[i], 10, 40)
			if err != nil || n < 0 {
				return fmt.Errorf("--oci-worker-gc-keepstorage: invalid amount %q", parts[i])
			}
			text = config.Text(strconv.FormatInt(n*1e6, 10))
		}
		*to = &text
	}
	return nil
}

// daemonNetwork takes BuildKit's word for the network of steps.
func (a *app) daemonNetwork(what, mode string) {
	switch mode {
	case "host", "bridge", "auto":
		a.workerNet = mode
	case "":
	default:
		a.warn(fmt.Sprintf("%s %s has no effect: want auto, bridge or host", what, mode))
	}
}

// daemonClient is what buildctl is told.
type daemonClient struct {
	addr, ca, cert, key, dir, serverName string
	timeout                              int
}

// newDaemonClient is what buildx' drivers need of buildctl: connections, and whether a server is there.
func newDaemonClient(a *app) *cobra.Command {
	var c daemonClient
	cmd := a.daemonRoot(daemonClientName, "The client of BuildKit that buildx' drivers need")
	cmd.Args = cobra.ArbitraryArgs
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if v, err := cmd.Flags().GetBool("version"); v || err != nil {
			return errors.Join(err, a.printDaemonVersion())
		}
		if len(args) > 0 {
			return fmt.Errorf("%s %s: it is not there: dial-stdio and debug workers are, for the rest use BuildKit's own buildctl", daemonClientName, args[0])
		}
		return cmd.Help()
	}
	f := cmd.PersistentFlags()
	addr := os.Getenv("BUILDKIT_HOST")
	if addr == "" {
		addr = socketOf("buildkit")
	}
	f.StringVar(&c.addr, "addr", addr, "Address of the server")
	f.StringVar(&c.serverName, "tlsservername", "", "Server name for certificate validation")
	f.StringVar(&c.ca, "tlscacert", "", "CA certificate for validation")
	f.StringVar(&c.cert, "tlscert", "", "Client certificate")
	f.StringVar(&c.key, "tlskey", "", "Client key")
	f.StringVar(&c.dir, "tlsdir", "", "Directory with ca.pem, cert.pem and key.pem")
	f.IntVar(&c.timeout, "timeout", 5, "Seconds to wait for a connection")
	f.Bool("debug", false, "Accepted for BuildKit's sake")
	f.Bool("wait", false, "Accepted for BuildKit's sake")
	f.String("log-format", "", "Accepted for BuildKit's sake")
	cmd.AddCommand(&cobra.Command{
		Use: "dial-stdio", Short: "Connect the standard streams with a server", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.dialStdio(cmd.Context(), &c) },
	}, a.debugCmd(&c))
	return cmd
}

// dialStdio copies between the standard streams and a server's socket.
func (a *app) dialStdio(ctx context.Context, c *daemonClient) error {
	path, ok := strings.CutPrefix(c.addr, "unix://")
	if !ok {
		return fmt.Errorf("invalid address %s: want unix://PATH", c.addr)
	}
	d := net.Dialer{Timeout: time.Duration(c.timeout) * time.Second}
	conn, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return err
	}
	defer conn.Close()
	go func() {
		_, _ = io.Copy(conn, a.stdin) // the server finds out
		_ = conn.(*net.UnixConn).CloseWrite()
	}()
	_, err = io.Copy(a.stdout, conn) // stdin may stay open
	return err
}

// dial connects a client of the API.
func (c *daemonClient) dial(ctx context.Context) (*client.Client, error) {
	var opts []client.ClientOpt
	if c.dir != "" {
		c.ca, c.cert, c.key = filepath.Join(c.dir, "ca.pem"), filepath.Join(c.dir, "cert.pem"), filepath.Join(c.dir, "key.pem")
	}
	if c.ca != "" {
		opts = append(opts, client.WithServerConfig(c.serverName, c.ca))
	}
	if c.cert != "" || c.key != "" {
		opts = append(opts, client.WithCredentials(c.cert, c.key))
	}
	return client.New(ctx, c.addr, opts...)
}

// debugCmd is `buildctl debug workers`, by which it is found whether a server answers.
func (a *app) debugCmd(c *daemonClient) *cobra.Command {
	debug := &cobra.Command{Use: "debug", Short: "Debug utilities", Args: cobra.NoArgs}
	var by []string
	var verbose bool
	var format string
	workers := &cobra.Command{
		Use: "workers", Short: "List workers", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), time.Minute)
			defer cancel()
			conn, err := c.dial(ctx)
			if err != nil {
				return err
			}
			defer conn.Close()
			all, err := conn.ListWorkers(ctx, client.WithFilter(by))
			if err != nil {
				return err
			}
			if format != "" {
				return printObject(a.stdout, format, all)
			}
			return printWorkers(a.stdout, all, verbose)
		},
	}
	f := workers.Flags()
	f.StringArrayVarP(&by, "filter", "f", nil, "Filters of containerd's kind")
	f.BoolVarP(&verbose, "verbose", "v", false, "Tell more")
	f.StringVar(&format, "format", "", "Format the output with a Go template")
	debug.AddCommand(workers)
	return debug
}

func printWorkers(w io.Writer, all []*client.WorkerInfo, verbose bool) error {
	tw := tabwriter.NewWriter(w, 1, 8, 1, '\t', 0)
	if !verbose {
		fmt.Fprintln(tw, "ID\tPLATFORMS")
	}
	for _, i := range all {
		var names []string
		for _, p := range i.Platforms {
			names = append(names, platforms.Format(platforms.Normalize(p)))
		}
		if !verbose {
			fmt.Fprintf(tw, "%s\t%s\n", i.ID, strings.Join(names, ","))
			continue
		}
		v := i.BuildkitVersion
		fmt.Fprintf(tw, "ID:\t%s\nPlatforms:\t%s\nBuildKit:\t%s %s %s\nLabels:\n", i.ID, strings.Join(names, ","), v.Package, v.Version, v.Revision)
		for _, k := range slices.Sorted(maps.Keys(i.Labels)) {
			fmt.Fprintf(tw, "\t%s:\t%s\n", k, i.Labels[k])
		}
		fmt.Fprintln(tw)
	}
	return tw.Flush()
}
