package cli

import (
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipway-build/slipway/internal/container"
	"github.com/slipway-build/slipway/internal/container/logfile"
)

// logsFlags are those of `logs`.
type logsFlags struct {
	follow, timestamps, details bool
	tail, since, until          string
}

// options are which entries they choose.
func (o *logsFlags) options() (opt logfile.Options, err error) {
	opt = logfile.Options{Stdout: true, Stderr: true, Tail: -1, Follow: o.follow}
	if opt.Since, err = moment(o.since); err != nil {
		return opt, fmt.Errorf("invalid value for \"since\": %w", err)
	}
	if opt.Until, err = moment(o.until); err != nil {
		return opt, fmt.Errorf("invalid value for \"until\": %w", err)
	}
	if n, err := strconv.Atoi(o.tail); err == nil {
		opt.Tail = n
	}
	return opt, nil
}

func newLogsCmd(a *app) *cobra.Command {
	var o logsFlags
	cmd := &cobra.Command{
		Use:   "logs [OPTIONS] CONTAINER",
		Short: "Fetch the logs of a container",
		Args:  exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, c, err := a.container(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			opt, err := o.options()
			if err != nil {
				return err
			}
			config, err := container.ReadConfig(c)
			if err != nil {
				return err
			}
			resume, err := m.Store.Yield() // a log may be followed for long, and nothing else is needed
			if err != nil {
				return err
			}
			err = m.Logs(cmd.Context(), c, opt, func(e *logfile.Entry) error {
				to := raw(a.stdout)
				if e.Stream == logfile.Stderr && !config.Terminal {
					to = raw(a.stderr)
				}
				return writeEntry(to, e, o.timestamps)
			})
			if rerr := resume(); err == nil {
				err = rerr
			}
			return err
		},
	}
	if !a.calls(cmd) {
		return cmd
	}
	f := cmd.Flags()
	f.BoolVarP(&o.follow, "follow", "f", false, "Follow log output")
	f.StringVarP(&o.tail, "tail", "n", "all", "Number of lines to show from the end of the logs")
	f.StringVar(&o.since, "since", "", `Show logs since timestamp (e.g. "2013-01-02T13:23:37Z") or relative (e.g. "42m" for 42 minutes)`)
	f.StringVar(&o.until, "until", "", `Show logs before a timestamp (e.g. "2013-01-02T13:23:37Z") or relative (e.g. "42m" for 42 minutes)`)
	f.BoolVarP(&o.timestamps, "timestamps", "t", false, "Show timestamps")
	f.BoolVar(&o.details, "details", false, "")
	f.Lookup("details").Hidden = true // there are none
	return cmd
}

// logTime is the form of times in logs, Docker's: as RFC 3339 has it, with all digits.
const logTime = "2006-01-02T15:04:05.000000000Z07:00"

// writeEntry writes an entry as it was printed.
func writeEntry(to io.Writer, e *logfile.Entry, timestamps bool) error {
	data := e.Bytes()
	if timestamps {
		data = append([]byte(e.Time.Format(logTime)+" "), data...)
	}
	_, err := to.Write(data)
	return err
}

// moment is a time as Docker's flags have it: a duration before now, seconds since the epoch, or a time of RFC 3339 of which the end may be missing.
// "" is none.
func moment(text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(text); err == nil {
		return time.Now().Add(-d), nil
	}
	if n, err := strconv.ParseFloat(text, 64); err == nil {
		return time.Unix(0, int64(n*1e9)), nil
	}
	for _, form := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02T15", "2006-01-02"} {
		if t, err := time.ParseInLocation(form, text, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is no time", text)
}
