package cli

import (
	"errors"
	"net"
	"strings"

	"github.com/slipway-build/slipway/internal/serve"
	"github.com/slipway-build/slipway/internal/serve/control"
	"github.com/slipway-build/slipway/internal/serve/docker"
	"github.com/slipway-build/slipway/internal/store"
	"github.com/slipway-build/slipway/internal/view"
)

// dockerAPI answers the clients of Docker from what those of BuildKit are served from.
func (a *app) dockerAPI(keeper *serve.Keeper, c *control.Server, worker func(*store.Store) (*view.Worker, error), conns *serve.Connections) *docker.Server {
	return docker.New(docker.Options{
		Acquire: func() (*docker.Backend, func(), error) {
			b, release, err := keeper.Acquire()
			if err != nil {
				return nil, nil, err
			}
			solver := b.Builder.(*serve.Builder)
			return &docker.Backend{Store: b.Store, Build: solver.Build, Base: solver.Base, Solver: solver}, release, nil
		},
		Control: c, GRPC: conns.Serve, Worker: worker, Registry: a.registry(), System: a.dockerSystem(), Warn: a.warn,
	})
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
