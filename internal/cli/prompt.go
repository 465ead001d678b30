package cli

import (
	"bufio"
	"context"
	"fmt"
	"strings"
)

// confirm asks a question on standard output and reads the answer from standard input; only "y" is
// yes, as with Docker.
func (a *app) confirm(ctx context.Context, question string) (bool, error) {
	if _, err := fmt.Fprint(a.stdout, question, " [y/N] "); err != nil {
		return false, err
	}
	answer := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(a.stdin).ReadString('\n') // the end of input is no answer
		answer <- line
	}()
	select {
	case <-ctx.Done():
		fmt.Fprintln(a.stdout)
		return false, context.Cause(ctx)
	case line := <-answer:
		return strings.EqualFold(strings.TrimSpace(line), "y"), nil
	}
}
