package cli

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/moby/sys/signal"
	"github.com/spf13/cobra"

	"github.com/slipway-build/slipway/internal/container"
	"github.com/slipway-build/slipway/internal/store"
	"github.com/slipway-build/slipway/internal/view"
)

func newKillCmd(a *app) *cobra.Command {
	var sig string
	cmd := &cobra.Command{
		Use:   "kill [OPTIONS] CONTAINER [CONTAINER...]",
		Short: "Kill one or more running containers",
		Args:  minArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := parseSignal(sig, "SIGKILL")
			if err != nil {
				return err
			}
			return a.eachContainer(cmd.Context(), args, func(m *container.Manager, c store.Container) (string, error) {
				return "", m.Kill(cmd.Context(), c, s)
			})
		},
	}
	if !a.calls(cmd) {
		return cmd
	}
	cmd.Flags().StringVarP(&sig, "signal", "s", "", "Signal to send to the container")
	return cmd
}

// parseSignal reads a signal's name or number; the first that is not "" counts.
func parseSignal(names ...string) (syscall.Signal, error) {
	for _, name := range names {
		if name != "" {
			return signal.ParseSignal(name)
		}
	}
	return syscall.SIGTERM, nil
}

func newStopCmd(a *app) *cobra.Command {
	var sig string
	var timeout int
	cmd := &cobra.Command{
		Use:   "stop [OPTIONS] CONTAINER [CONTAINER...]",
		Short: "Stop one or more running containers",
		Args:  minArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			f := cmd.Flags()
			if f.Changed("time") && f.Changed("timeout") {
				return errors.New("conflicting options: cannot specify both --timeout and --time")
			}
			given := f.Changed("time") || f.Changed("timeout")
			return a.eachContainer(cmd.Context(), args, func(m *container.Manager, c store.Container) (string, error) {
				config, err := container.ReadConfig(c)
				if err != nil {
					return "", err
				}
				s, err := parseSignal(sig, config.StopSignal)
				if err != nil {
					return "", err
				}
				seconds := 10
				switch {
				case given:
					seconds = timeout
				case config.StopTimeout != nil:
					seconds = *config.StopTimeout
				}
				return "", m.Stop(cmd.Context(), c, s, time.Duration(seconds)*time.Second)
			})
		},
	}
	if !a.calls(cmd) {
		return cmd
	}
	f := cmd.Flags()
	f.StringVarP(&sig, "signal", "s", "", "Signal to send to the container")
	f.IntVarP(&timeout, "timeout", "t", 0, "Seconds to wait before killing the container")
	f.IntVar(&timeout, "time", 0, "")
	f.Lookup("time").Hidden = true // the old name
	return cmd
}

func newWaitCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "wait CONTAINER [CONTAINER...]",
		Short: "Block until one or more containers stop, then print their exit codes",
		Args:  minArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.eachContainer(cmd.Context(), args, func(m *container.Manager, c store.Container) (string, error) {
				s, err := m.Wait(cmd.Context(), c)
				return fmt.Sprint(s.Code()), err
			})
		},
	}
}

// eachContainer does something with containers at the same time, and prints what it gives for each,
// or the container's name as it was written, in their order. Errors come after all others are done.
func (a *app) eachContainer(ctx context.Context, names []string, do func(*container.Manager, store.Container) (string, error)) error {
	m, err := a.containers()
	if err != nil {
		return err
	}
	type outcome struct {
		text string
		err  error
	}
	done := make([]chan outcome, len(names))
	for i, name := range names {
		done[i] = make(chan outcome, 1)
		go func() {
			c, err := view.FindContainer(ctx, m.Store, name)
			text := ""
			if err == nil {
				text, err = do(m, c)
			}
			if text == "" {
				text = name
			}
			done[i] <- outcome{text, err}
		}()
	}
	var all error
	for i := range names {
		o := <-done[i]
		if o.err != nil {
			all = errors.Join(all, o.err)
			continue
		}
		if _, err := fmt.Fprintln(a.stdout, o.text); err != nil {
			return err
		}
	}
	return all
}
