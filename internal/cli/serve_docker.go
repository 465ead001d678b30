package cli

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/slipway-build/slipway/internal/container"
	"github.com/slipway-build/slipway/internal/serve"
	"github.com/slipway-build/slipway/internal/serve/control"
	"github.com/slipway-build/slipway/internal/serve/docker"
	"github.com/slipway-build/slipway/internal/store"
	"github.com/slipway-build/slipway/internal/view"
)

// dockerAPI answers the clients of Docker from what those of BuildKit are served from.
func (a *app) dockerAPI(keeper *serve.Keeper, c *control.Server, worker func(*store.Store) (*view.Worker, error), conns *serve.Connections, entitlements []string) (*docker.Server, error) {
	run, err := a.runSettings()
	if err != nil {
		return nil, err
	}
	return docker.New(docker.Options{
		Acquire: func() (*docker.Backend, func(), error) {
			b, release, err := keeper.Acquire()
			if err != nil {
				return nil, nil, err
			}
			solver := b.Builder.(*serve.Builder)
			return &docker.Backend{Store: b.Store, Build: solver.Build, Base: solver.Base, Solver: solver}, release, nil
		},
		Control: c, GRPC: conns.Serve, Worker: worker, Registry: a.registry(), System: a.dockerSystem(), Warn: a.warn, Monitor: a.monitorCommand, Entitlements: entitlements, Run: run,
	}), nil
}

// runSettings are what the configuration says of containers.
func (a *app) runSettings() (opts container.Options, err error) {
	var o containerFlags
	cmd := &cobra.Command{}
	o.add(cmd.Flags())
	if a.settings != nil {
		if err := set(cmd.Flags(), a.settings.Run); err != nil {
			return opts, err
		}
	}
	return o.options(cmd, nil)
}

// anyRuns reports whether a container runs. What cannot be read keeps no server alive.
func (a *app) anyRuns(keeper *serve.Keeper) func() bool {
	return func() bool {
		b, release, err := keeper.Acquire()
		if err != nil {
			return false
		}
		defer release()
		all, _ := b.Store.Containers(context.Background())
		m := &container.Manager{Store: b.Store}
		return slices.ContainsFunc(all, func(c store.Container) bool { return m.State(c.ID).Running })
	}
}

// dockerSystem describes this machine and program.
func (a *app) dockerSystem() docker.System {
	k := uname()
	sys := docker.System{
		Version: version(), Docker: strings.TrimPrefix(dockerRelease, "v"), BuildKit: buildKitRelease, Kernel: k.release, Machine: k.machine, OS: osName(), Cgroups: cgroupVersion(),
		Memory: memory(), Rootless: a.rootless(), Runtime: "slipway",
	}
	if a.runtime != "" {
		sys.Runtime = a.runtime
	}
	return sys
}

func closeAll(listeners []net.Listener) (err error) {
	for _, l := range listeners {
		err = errors.Join(err, l.Close())
	}
	return err
}
