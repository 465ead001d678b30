package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"github.com/slipway-build/slipway/internal/container"
	"github.com/slipway-build/slipway/internal/store"
	"github.com/slipway-build/slipway/internal/view"
)

func newStartCmd(a *app) *cobra.Command {
	var attach, interactive bool
	cmd := &cobra.Command{
		Use:   "start [OPTIONS] CONTAINER [CONTAINER...]",
		Short: "Start one or more stopped containers, in the foreground",
		Args:  minArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				return a.startOne(cmd.Context(), args[0], attach || interactive, interactive)
			}
			if attach || interactive {
				return errors.New("you cannot start and attach multiple containers at once")
			}
			return a.startAll(cmd.Context(), args)
		},
	}
	if !a.calls(cmd) {
		return cmd
	}
	f := cmd.Flags()
	f.BoolVarP(&attach, "attach", "a", false, "Attach STDOUT/STDERR and forward signals (it is always done)")
	f.BoolVarP(&interactive, "interactive", "i", false, "Attach container's STDIN")
	f.String("detach-keys", "", "Override the key sequence for detaching a container")
	f.Lookup("detach-keys").Hidden = true
	return cmd
}

// startOne runs a container until it ends, with its exit code. One that runs already is left alone,
// as Docker does, unless its output was asked for.
func (a *app) startOne(ctx context.Context, name string, attach, stdin bool) error {
	m, err := a.containers()
	if err != nil {
		return failed(err)
	}
	c, err := view.FindContainer(ctx, m.Store, name)
	if err != nil {
		return err
	}
	if m.State(c.ID).Running {
		if attach {
			return failed(fmt.Errorf("container %s is running in another process, which has its output", name))
		}
		_, err := fmt.Fprintln(a.stdout, name)
		return err
	}
	return a.runContainer(ctx, c, stdin)
}

// startAll runs containers at the same time until all have ended. Those that cannot be run are
// named together at the end; how the others' processes exit changes nothing.
func (a *app) startAll(ctx context.Context, names []string) error {
	m, err := a.containers()
	if err != nil {
		return failed(err)
	}
	signals, stop := forwardSignals(ctx)
	defer stop()
	each := broadcast(ctx, signals, len(names))
	bad := make([]bool, len(names))
	var mu sync.Mutex // of stderr
	var wg sync.WaitGroup
	for i, name := range names {
		c, err := view.FindContainer(ctx, m.Store, name)
		wg.Add(1)
		go func() {
			defer wg.Done()
			if err == nil {
				err = a.startBeside(ctx, c, each[i])
			}
			var code *codeError
			if err == nil || errors.As(err, &code) && code.err == nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			bad[i] = true
			fmt.Fprintln(a.stderr, err)
		}()
	}
	wg.Wait()
	var failedNames []string
	for i, name := range names {
		if bad[i] {
			failedNames = append(failedNames, name)
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if len(failedNames) > 0 {
		return fmt.Errorf("failed to start containers: %s", strings.Join(failedNames, ", "))
	}
	return nil
}

// startBeside runs one of several containers.
func (a *app) startBeside(ctx context.Context, c store.Container, signals <-chan int) error {
	config, err := container.ReadConfig(c)
	if err != nil {
		return err
	}
	if config.Terminal {
		return fmt.Errorf("container %s has a terminal of its own: start it alone", c.Name)
	}
	err = a.runWith(ctx, c, false, signals)
	if errors.Is(err, container.ErrRunning) {
		return nil
	}
	return err
}

// broadcast gives what comes from a channel to n others, until ctx ends.
func broadcast(ctx context.Context, from <-chan int, n int) []chan int {
	to := make([]chan int, n)
	for i := range to {
		to[i] = make(chan int, 16)
	}
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case sig := <-from:
				for _, ch := range to {
					select {
					case ch <- sig:
					default: // its process does not take any more
					}
				}
			}
		}
	}()
	return to
}
