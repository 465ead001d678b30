package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/moby/buildkit/solver/errdefs"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/outbound"
)

// codeError is an error with an exit code of its own. Without an error nothing is printed.
type codeError struct {
	code int
	err  error
}

func (e *codeError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}

func (e *codeError) Unwrap() error { return e.err }

// usageError is a command line that makes no sense, with the usage line to be shown.
type usageError struct {
	code    int
	message string
	usage   string
	help    string
}

func (e *usageError) Error() string {
	return fmt.Sprintf("%s\n\nUsage:  %s\n\nRun '%s --help' for more information", e.message, e.usage, e.help)
}

// usageErrorf makes a usageError about cmd.
func usageErrorf(cmd *cobra.Command, code int, format string, args ...any) error {
	return &usageError{code: code, message: fmt.Sprintf(format, args...), usage: cmd.UseLine(), help: cmd.CommandPath()}
}

// report prints an error and returns the exit code.
func (a *app) report(ctx context.Context, err error) int {
	if err == nil {
		return 0
	}
	var code *codeError
	if errors.As(err, &code) && code.err == nil {
		return code.code
	}
	if sig := interruptedBy(ctx); sig != 0 && errors.Is(err, context.Canceled) {
		if sig == unix.SIGPIPE {
			return 128 + int(sig)
		}
		fmt.Fprintf(a.stderr, "ERROR: interrupted: %s\n", unix.SignalName(sig))
		return 128 + int(sig)
	}
	if errors.Is(err, unix.EPIPE) {
		return 128 + int(unix.SIGPIPE)
	}
	for _, src := range errdefs.Sources(err) {
		if src.Info != nil {
			src.Info.Data = []byte(outbound.Redact(string(src.Info.Data)))
		}
		src.Print(a.stderr) // a terminal that is gone cannot be told
	}
	format := "ERROR: %v\n"
	if a.debug {
		format = "ERROR: %+v\n"
	}
	fmt.Fprint(a.stderr, outbound.Redact(fmt.Sprintf(format, err)))
	var usage *usageError
	switch {
	case errors.As(err, &usage):
		return usage.code
	case code != nil:
		return code.code
	}
	return 1
}
