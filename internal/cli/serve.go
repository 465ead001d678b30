package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/moby/buildkit/client"
	dockerfile "github.com/moby/buildkit/frontend/dockerfile/version"
	"github.com/moby/buildkit/session"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/slipway-build/slipway/internal/build"
	buildclient "github.com/slipway-build/slipway/internal/client"
	"github.com/slipway-build/slipway/internal/config"
	"github.com/slipway-build/slipway/internal/isolation"
	"github.com/slipway-build/slipway/internal/serve"
	"github.com/slipway-build/slipway/internal/serve/bridge"
	"github.com/slipway-build/slipway/internal/serve/control"
	"github.com/slipway-build/slipway/internal/store"
	"github.com/slipway-build/slipway/internal/view"
)

// serving is what a server is told.
type serving struct {
	addrs        []string
	docker       []string // addresses of Docker's API
	group, mode  string
	uid          int
	cert, key    string
	ca           string
	insecure     bool
	idle         time.Duration
	entitlements []string
	config       string // a buildkitd.toml
	provenance   map[string]any
	labels       map[string]string
	platforms    []string
}

// How long a server holds the store.
const (
	storeLinger = 2 * time.Second // after a request: others do not prune what it has used meanwhile
	storeMaxAge = 30 * time.Minute
	closeTime   = 10 * time.Second // at the end of the server, for what does not end
)

// allEntitlements are those that a client may be allowed to give.
var allEntitlements = []string{"network.host", "security.insecure", "device"}

func newServeCmd(a *app) *cobra.Command {
	opts := serving{uid: -1}
	cmd := &cobra.Command{
		Use:   "serve [OPTIONS]",
		Short: "Let clients of BuildKit and of Docker build: docker, buildx, buildctl and others",
		Long: `Answer the clients of BuildKit: docker buildx (driver remote), buildctl, and programs with BuildKit's Go client; and those of
Docker's API: docker with DOCKER_HOST=unix:///run/slipway/docker.sock, and SDKs.

A server has nothing of its own: it works with the store that the command line works with, and any number of them and of
commands do so at the same time. Whoever may connect may do what this user may: see docs/clients.md. SIGTERM lets the builds that run end first, a second one
ends them.`,
		Args: exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.serve(cmd, &opts) },
	}
	if !a.calls(cmd) {
		return cmd
	}
	f := cmd.Flags()
	opts.listenFlags(f)
	f.StringVar(&opts.mode, "mode", "0660", "Permissions of Unix sockets")
	f.BoolVar(&opts.insecure, "insecure", false, "Listen at tcp:// addresses without asking clients for a certificate: whoever reaches them is root here")
	f.DurationVar(&opts.idle, "idle", 0, "End when there was no request for so long, as with systemd's sockets (fd://); 0 is never")
	f.StringVar(&opts.config, "config", "", "Configuration of a BuildKit daemon (buildkitd.toml), as far as it says something to this one")
	f.IntVar(&a.maxRuns, "max-parallelism", 0, "Limit the number of parallel build steps that can run at the same time")
	return cmd
}

// listenFlags are those that buildkitd has as well.
func (o *serving) listenFlags(f *pflag.FlagSet) {
	f.StringArrayVar(&o.addrs, "addr", nil, `Listening address: unix://PATH, tcp://HOST:PORT, or fd://[NAME] for a socket of systemd (default: buildkitd.sock in a directory of its own in /run, or in $XDG_RUNTIME_DIR)`)
	f.StringArrayVar(&o.docker, "docker-addr", nil, "Listening address of Docker's API, as with --addr (default, where there is no --addr: docker.sock beside the other one)")
	f.StringVar(&o.group, "group", "", "Group (name or gid) which will own all Unix socket listening addresses")
	f.StringVar(&o.cert, "tlscert", "", "Certificate file to use")
	f.StringVar(&o.key, "tlskey", "", "Key file to use")
	f.StringVar(&o.ca, "tlscacert", "", "CA certificate to verify clients")
	f.StringArrayVar(&o.entitlements, "allow-insecure-entitlement", nil, "Allow clients to give builds and containers an entitlement: network.host, security.insecure")
}

// socketOf is where a server of a name listens unless it is told otherwise.
func socketOf(name string) string {
	dir := "/run"
	if isolation.User() != 0 {
		if dir = os.Getenv("XDG_RUNTIME_DIR"); dir == "" {
			dir = filepath.Join("/run/user", strconv.Itoa(isolation.User()))
		}
	}
	return "unix://" + filepath.Join(dir, name, "buildkitd.sock")
}

// dockerSocket is where Docker's API is, beside BuildKit's.
func dockerSocket(addr string) string {
	return "unix://" + filepath.Join(filepath.Dir(strings.TrimPrefix(addr, "unix://")), "docker.sock")
}

// serve serves until a signal, an error or idleness ends it.
func (a *app) serve(cmd *cobra.Command, o *serving) error {
	ctx := cmd.Context()
	if err := a.daemonSettings(cmd, o); err != nil {
		return err
	}
	for _, e := range o.entitlements {
		if !slices.Contains(allEntitlements, e) {
			return fmt.Errorf("invalid entitlement : %s", e)
		}
	}
	mode, err := strconv.ParseUint(o.mode, 8, 9)
	if err != nil {
		return fmt.Errorf("invalid --mode %q: want permissions as 0660", o.mode)
	}
	worker, err := a.served(o)
	if err != nil {
		return err
	}
	sessions, err := session.NewManager()
	if err != nil {
		return err
	}
	steps, err := a.clientSteps()
	if err != nil {
		return err
	}
	steps.ProvenanceEnv = o.provenance
	if err := a.tryStore(); err != nil {
		return err
	}
	listeners, web, err := o.listen(os.FileMode(mode))
	if err != nil {
		return err
	}
	keeper := &serve.Keeper{Open: func() (*control.Backend, func() error, error) { return a.backend(ctx, sessions, steps) }, Linger: storeLinger, MaxAge: storeMaxAge, Warn: a.warn}
	defer keeper.Close(closeTime)
	builds := bridge.NewBuilds(bridge.Limits{})
	c := control.New(control.Options{
		Acquire: keeper.Acquire, Renew: keeper.Renew, Sessions: sessions, Bridge: builds.Drive, Worker: worker, Version: buildKitVersion(), Entitlements: o.entitlements, Limits: stepLimits(), Unrecorded: a.unrecorded(),
		Warn: a.warn, Tidy: func(ctx context.Context, s *store.Store) { a.tidyStore(ctx, s, true) },
	})
	notifier := serve.NewNotifier()
	drain := a.drain(ctx, notifier)
	conns := serve.NewConnections()
	engine, err := a.dockerAPI(keeper, c, worker, conns, o.entitlements)
	if err != nil {
		return err
	}
	err = serve.Serve(ctx, drain, listeners, serve.Options{Control: c, Register: builds.Register, Idle: o.idle, Busy: a.anyRuns(keeper), Warn: a.warn, HTTP: engine, HTTPEnds: engine.Close, HTTPListeners: web, Connections: conns, Ready: func() {
		for _, l := range slices.Concat(listeners, web) {
			fmt.Fprintf(a.stderr, "running server on %s\n", l.Addr())
		}
		notifier.Tell("READY=1")
	}})
	if ctx.Err() != nil {
		return errors.Join(err, context.Cause(ctx))
	}
	return err
}

// listen opens the addresses of BuildKit's API, and those of Docker's.
func (o *serving) listen(mode os.FileMode) (listeners, web []net.Listener, err error) {
	if len(o.addrs) == 0 {
		o.addrs = []string{socketOf("slipway")}
		if len(o.docker) == 0 {
			o.docker = []string{dockerSocket(o.addrs[0])}
		}
	}
	opt := serve.ListenOptions{Mode: mode, Group: o.group, UID: o.uid, Cert: o.cert, Key: o.key, CA: o.ca, Insecure: o.insecure}
	if listeners, err = serve.Listen(o.addrs, opt); err != nil || len(o.docker) == 0 {
		return listeners, nil, err
	}
	if web, err = serve.Listen(o.docker, opt); err != nil {
		return nil, nil, errors.Join(err, closeAll(listeners))
	}
	return listeners, web, nil
}

// drain returns what the first signal closes. The next one ends the context.
func (a *app) drain(ctx context.Context, n *serve.Notifier) <-chan struct{} {
	drain := make(chan struct{})
	signals, _ := forwardSignals(ctx)
	go func() {
		for first := true; ; first = false {
			select {
			case sig := <-signals:
				if !first { // another one: the same signal ends the context by itself
					interrupt(ctx, syscall.Signal(sig))
					continue
				}
				n.Tell("STOPPING=1")
				fmt.Fprintln(a.stderr, "stopping server")
				close(drain)
			case <-ctx.Done():
				return
			}
		}
	}()
	return drain
}

func (a *app) warn(text string) { fmt.Fprintln(a.stderr, "WARNING:", text) }

// tryStore finds what is wrong with the store before anybody asks for something.
func (a *app) tryStore() error {
	s, err := a.newStore()
	if err != nil {
		return err
	}
	return s.Close()
}

// clientSteps is what the configuration says of the steps of builds.
func (a *app) clientSteps() (req build.Request, err error) {
	o, err := a.configuredBuild((*config.Build).Steps)
	if err == nil {
		err = o.steps(&req)
	}
	return req, err
}

// backend opens what requests are served from.
func (a *app) backend(ctx context.Context, sessions *session.Manager, steps build.Request) (*control.Backend, func() error, error) {
	s, err := a.newStore()
	if err != nil {
		return nil, nil, err
	}
	builder := &serve.Builder{Build: a.builderOn(s, nil), Store: s, Sessions: sessions, Kept: buildclient.NewKept(s), Base: steps}
	return &control.Backend{Store: s, Builder: builder}, func() error {
		a.tidyStore(ctx, s, false)
		err := s.Close()
		debug.FreeOSMemory() // there may be nothing to do for long
		return err
	}, nil
}

// served is what the server tells clients of itself.
func (a *app) served(o *serving) (func(*store.Store) (*view.Worker, error), error) {
	var named []ocispec.Platform
	for _, name := range o.platforms {
		p, err := parsePlatform(name)
		if err != nil {
			return nil, err
		}
		named = append(named, *p)
	}
	return func(s *store.Store) (*view.Worker, error) { return a.workerOn(s, o.labels, named) }, nil
}

// buildKitVersion is the version in BuildKit's words.
func buildKitVersion() client.BuildkitVersion {
	return client.BuildkitVersion{Package: packagePath, Version: buildKitRelease, Revision: version(), DockerfileVersion: dockerfileRelease()}
}

// packagePath is what clients are told that the server is, in the place of BuildKit's.
const packagePath = "github.com/slipway-build/slipway"

// dockerfileRelease is the version of the linked frontend, which does not know that its BuildKit is a release.
func dockerfileRelease() string { return strings.TrimSuffix(dockerfile.Version(), "-dev") }
