package sandbox

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/slipway-build/slipway/internal/network"
)

// WorkerNetwork says what [NetworkBridge] is; the words are those of buildkitd's --oci-worker-net.
type WorkerNetwork string

const (
	// WorkerAuto is a network of its own for each process, or the host's where that cannot be had.
	WorkerAuto WorkerNetwork = "auto"
	// WorkerBridge is a network of its own, or an error.
	WorkerBridge WorkerNetwork = "bridge"
	// WorkerHost is the host's network.
	WorkerHost WorkerNetwork = "host"
)

// sharedNetworkDrops are the capabilities that a process does not get that has the host's network without
// having asked for it: with the first one it sees what others send, with the second one it can
// pass for a service of the host.
var sharedNetworkDrops = []string{"CAP_NET_RAW", "CAP_NET_BIND_SERVICE"}

// namespace is a [network.Namespace].
type namespace interface {
	Enter() error
	Close(context.Context) error
}

// newNamespace makes one; a variable for tests.
var newNamespace = func(opt network.Options) (namespace, error) {
	ns, err := network.New(opt)
	if err != nil {
		return nil, err
	}
	return ns, nil
}

// networks make the networks of a runner's processes.
type networks struct {
	kind WorkerNetwork

	mu sync.Mutex
	// The first attempt to make a network decides for all of this process's life: later ones happen
	// beside processes that could make them fail on purpose, to get the host's.
	decided bool
	shared  error // why processes get the host's; nil: they do not
}

// connection is the network of one run while it is made on another thread.
type connection struct {
	resolv resolvers // of the host
	done   chan struct{}
	ns     namespace // nil: the run shares the host's
	err    error
}

// begin makes what spec asks for. failed is told why there is no way out any more when that breaks.
func (n *networks) begin(spec *Spec, failed func(error)) (*connection, error) {
	resolv, err := hostResolvers()
	if err != nil {
		return nil, err
	}
	c := &connection{resolv: resolv, done: make(chan struct{})}
	go func() {
		defer close(c.done)
		switch spec.Network {
		case NetworkNone:
			c.ns, c.err = newNamespace(network.Options{Isolated: true})
		case NetworkBridge:
			c.ns, c.err = n.bridge(network.Options{Servers: resolv.now, Failed: failed})
		}
	}()
	return c, nil
}

// bridge returns nil when the process is to share the host's network.
func (n *networks) bridge(opt network.Options) (namespace, error) {
	if n.kind == WorkerHost {
		return nil, nil
	}
	n.mu.Lock()
	if n.decided {
		shared := n.shared
		n.mu.Unlock()
		if shared != nil {
			return nil, nil
		}
		return newNamespace(opt)
	}
	defer n.mu.Unlock()
	ns, err := newNamespace(opt)
	switch {
	case err == nil:
		n.decided = true
	case n.kind == WorkerAuto && network.Unavailable(err):
		n.decided, n.shared = true, err
		return nil, nil
	}
	return ns, err
}

// notice is what the user should know of the network of what runs; "" is nothing.
func (n *networks) notice() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.shared == nil {
		return ""
	}
	return fmt.Sprintf("no network of its own can be made, so this has the host's, without CAP_NET_RAW and CAP_NET_BIND_SERVICE: %v", n.shared)
}

// enter waits for the network, moves the calling thread there, and returns spec as it is there.
func (c *connection) enter(spec *Spec) (*Spec, error) {
	<-c.done
	switch {
	case c.err != nil && spec.Network == NetworkBridge:
		return nil, fmt.Errorf("%w (--worker-net=host does without)", c.err)
	case c.err != nil:
		return nil, c.err
	case c.ns != nil:
		return spec, c.ns.Enter()
	case spec.Network == NetworkBridge:
		shared := *spec
		shared.Network, shared.sharesNetwork = NetworkHost, true
		return &shared, nil
	}
	return spec, nil
}

// close ends what begin began; also when enter was not called. What is on its way goes on for a
// while unless ctx is done. It returns err, how the run ended, with why there was no network although
// there should have been.
func (c *connection) close(ctx context.Context, err error) error {
	<-c.done
	if c.ns == nil {
		return err
	}
	cerr := c.ns.Close(ctx)
	var exit *ExitError
	switch {
	case cerr == nil:
		return err
	case err == nil || errors.Is(cerr, context.Cause(ctx)): // that is why the run ended
		return cerr
	case errors.As(err, &exit): // the caller may take an exit code for a success
		return fmt.Errorf("%s: %w", err.Error(), cerr)
	}
	return fmt.Errorf("%w: %w", err, cerr)
}
