package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/slipway-build/slipway/internal/build"
	"github.com/slipway-build/slipway/internal/engine"
	"github.com/slipway-build/slipway/internal/terminal"
)

// failureFlags say what becomes of a RUN that fails.
type failureFlags struct{ onFailure string }

const (
	failureNone  = "none"
	failureKeep  = "keep"
	failureShell = "shell"
)

func (o *failureFlags) add(f *pflag.FlagSet, otherwise string) {
	f.StringVar(&o.onFailure, "on-failure", otherwise, `Set what becomes of a "RUN" that fails: nothing is kept ("none"), it is kept for "debug" and "cp" ("keep"), or a shell is started in it as well ("shell")`)
}

// set sets whether something is kept; "" leaves it as it is.
func (o *failureFlags) set(req *build.Request) error {
	switch o.onFailure {
	case failureKeep, failureShell:
		req.KeepFailed = req.Call == ""
	case failureNone:
		req.KeepFailed = false
	case "":
	default:
		return fmt.Errorf("--on-failure=%s: want none, keep or shell", o.onFailure)
	}
	return nil
}

// checkFailureShell refuses a shell that is asked for where there is no terminal. Where the configuration asks for it, the step is kept alone.
func (a *app) checkFailureShell(cmd *cobra.Command, o *failureFlags) error {
	if o.onFailure == failureShell && cmd.Flags().Changed("on-failure") && !a.atTerminal() {
		return fmt.Errorf("--on-failure=shell: standard input and output are no terminal: use --on-failure=keep, and then %s debug -- COMMAND", a.name)
	}
	return nil
}

// atTerminal reports whether a user can be asked.
func (a *app) atTerminal() bool { return isTerminal(a.stdin) && isTerminal(a.stdout) }

// hintError is an error with what can be done about it below it.
type hintError struct {
	error
	hint string
}

func (e *hintError) Error() string { return e.error.Error() + e.hint }
func (e *hintError) Unwrap() error { return e.error }

// afterFailure says how to look into the step that builds have failed in, and starts a shell in it if that is asked for. again is a
// command line that would keep one, "" where none is known.
func (a *app) afterFailure(ctx context.Context, o *failureFlags, told *told, again string, err error) error {
	if !errors.As(err, new(*engine.ExecError)) || ctx.Err() != nil {
		return err
	}
	kept := told.kept()
	switch {
	case kept == "" && again != "" && o.onFailure == failureNone:
		return &hintError{err, "\n  look inside: " + again}
	case kept == "":
		return err
	}
	here := a.here()
	err = &hintError{err, fmt.Sprintf("\n  look inside: %s debug %s\n  copy out:    %s cp %s:PATH .", here, kept, here, kept)}
	if o.onFailure != failureShell || !a.atTerminal() {
		return err
	}
	c, ferr := a.failedStep(ctx, kept)
	if ferr != nil {
		return errors.Join(err, ferr)
	}
	a.report(ctx, err)
	var code *codeError
	if derr := a.debugStep(ctx, c, &debugFlags{}, nil); derr != nil && !(errors.As(derr, &code) && code.err == nil) {
		return derr
	}
	return &codeError{code: 1} // it was told before
}

// tellOutput shows the last lines of a step that failed, where the display has shown none, as BuildKit's displays do.
func (a *app) tellOutput(mode string, err error) {
	var failed *engine.ExecError
	if mode != "quiet" && mode != "none" || !errors.As(err, &failed) || len(failed.Output) == 0 {
		return
	}
	const rule = "------"
	fmt.Fprintf(a.stderr, "%s\n > %s:\n%s\n%s\n", rule, terminal.Short(terminal.Line(failed.Vertex.Name()), maxCommandName), strings.Join(failed.Output, "\n"), rule)
}

// maxCommandName is how many letters of the name of a step stand above its output.
const maxCommandName = 160

// kept is the container that a failed step of the builds was kept as.
func (t *told) kept() string {
	for _, r := range t.records {
		if r != nil && r.Kept != "" {
			return r.Kept
		}
	}
	return ""
}

// here is how this program is called to work with the same store.
func (a *app) here() string {
	if a.root == "" {
		return a.name
	}
	return a.name + " --root " + shellWord(a.root)
}

// again is the command line once more, with a step that fails kept; "" where it cannot be told.
func (a *app) again() string {
	i := slices.Index(a.words, "build")
	if i < 0 || !slices.Equal(withoutValues(a.words), a.words) {
		return ""
	}
	how := failureKeep
	if a.atTerminal() {
		how = failureShell
	}
	words := []string{a.name}
	for _, w := range slices.Insert(slices.Clone(a.words), i+1, "--on-failure="+how) {
		words = append(words, shellWord(w))
	}
	return strings.Join(words, " ")
}

// shellWord is a word as a shell reads it.
func shellWord(word string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./:=@,+%^", r)
	}
	if word != "" && strings.IndexFunc(word, func(r rune) bool { return !plain(r) }) < 0 {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}
