package cli

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

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
			s, err := container.ParseSignal(sig, "SIGKILL")
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

// stopFlags are those of stop and restart.
type stopFlags struct {
	signal  string
	timeout int
}

func (o *stopFlags) add(f *pflag.FlagSet) {
	f.StringVarP(&o.signal, "signal", "s", "", "Signal to send to the container")
	f.IntVarP(&o.timeout, "timeout", "t", 0, "Seconds to wait before killing the container")
	f.IntVar(&o.timeout, "time", 0, "")
	f.Lookup("time").Hidden = true // the old name
}

// of is how a container is stopped.
func (o *stopFlags) of(cmd *cobra.Command, c store.Container) (syscall.Signal, time.Duration, error) {
	f := cmd.Flags()
	if f.Changed("time") && f.Changed("timeout") {
		return 0, 0, errors.New("conflicting options: cannot specify both --timeout and --time")
	}
	var seconds *int
	if f.Changed("time") || f.Changed("timeout") {
		seconds = &o.timeout
	}
	return container.StopOf(c, o.signal, seconds)
}

func newStopCmd(a *app) *cobra.Command {
	var o stopFlags
	cmd := &cobra.Command{
		Use:   "stop [OPTIONS] CONTAINER [CONTAINER...]",
		Short: "Stop one or more running containers",
		Args:  minArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, _, err := o.of(cmd, store.Container{Config: []byte("{}")}); err != nil {
				return err
			}
			return a.eachContainer(cmd.Context(), args, func(m *container.Manager, c store.Container) (string, error) {
				sig, timeout, err := o.of(cmd, c)
				if err != nil {
					return "", err
				}
				return "", m.Stop(cmd.Context(), c, sig, timeout)
			})
		},
	}
	if a.calls(cmd) {
		o.add(cmd.Flags())
	}
	return cmd
}

func newWaitCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "wait CONTAINER [CONTAINER...]",
		Short: "Block until one or more containers stop, then print their exit codes",
		Args:  minArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.eachContainer(cmd.Context(), args, func(m *container.Manager, c store.Container) (string, error) {
				w, err := m.Watch(c)
				if err != nil {
					return "", err
				}
				defer w.Close()
				s, err := w.NotRunning(cmd.Context())
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
