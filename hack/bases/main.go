// Command bases makes base images out of what this machine has and serves them on loopback
// under the names that Dockerfiles use (golang:latest, alpine:latest, ...). They stand in for
// the public images where no public registry can be reached.
//
//	bases make [KIND...]          make busybox, golang and debian, or those named
//	bases serve                   serve what has been made, until interrupted
//	bases exec -- COMMAND ARG...  serve while a command runs, with SLIPWAY_CERTS_DIR set for it
//	bases list                    print the names and digests
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipway-build/slipway/hack/bases/library"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := command().ExecuteContext(ctx)
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit) && exit.ExitCode() > 0:
		os.Exit(exit.ExitCode())
	case err != nil:
		fmt.Fprintln(os.Stderr, "bases:", err)
		os.Exit(1)
	}
}

// settings are the flags that the subcommands share.
type settings struct {
	dir, addr, certs string
}

func command() *cobra.Command {
	var s settings
	root := &cobra.Command{Use: "bases", Short: "make and serve stand-ins for public base images", SilenceUsage: true, SilenceErrors: true}
	root.PersistentFlags().StringVar(&s.dir, "dir", filepath.Join("build", "bases"), "where the images are kept")
	serving := func(c *cobra.Command) *cobra.Command {
		c.Flags().StringVar(&s.addr, "addr", "127.0.0.1:0", "loopback address to serve on; port 0 takes a free one")
		c.Flags().StringVar(&s.certs, "certs-dir", "", "where to write docker.io/hosts.toml (default DIR/certs.d)")
		return c
	}
	root.AddCommand(
		&cobra.Command{Use: "make [KIND...]", Short: "make what is missing or outdated", ValidArgs: library.Kinds,
			RunE: func(c *cobra.Command, kinds []string) error { return s.make(c.Context(), kinds) }},
		serving(&cobra.Command{Use: "serve", Short: "serve until interrupted", Args: cobra.NoArgs,
			RunE: func(c *cobra.Command, _ []string) error { return s.serve(c.Context()) }}),
		serving(&cobra.Command{Use: "exec -- COMMAND [ARG...]", Short: "serve while a command runs", Args: cobra.MinimumNArgs(1),
			RunE: func(c *cobra.Command, args []string) error { return s.exec(c.Context(), args) }}),
		&cobra.Command{Use: "list", Short: "print names and digests", Args: cobra.NoArgs,
			RunE: func(*cobra.Command, []string) error { return s.list() }},
	)
	return root
}

func (s *settings) make(ctx context.Context, kinds []string) error {
	l, err := library.Open(s.dir)
	if err != nil {
		return err
	}
	if len(kinds) == 0 {
		kinds = library.Kinds
	}
	for _, kind := range kinds {
		start := time.Now()
		made, err := l.Make(ctx, kind)
		if err != nil {
			return fmt.Errorf("making base image %s: %w", kind, err)
		}
		if made {
			fmt.Printf("made %s in %.1f s\n", kind, time.Since(start).Seconds())
		} else {
			fmt.Printf("%s is there\n", kind)
		}
	}
	return nil
}

// start opens the library and serves it.
func (s *settings) start() (*library.Server, error) {
	if s.certs == "" {
		s.certs = filepath.Join(s.dir, "certs.d")
	}
	certs, err := filepath.Abs(s.certs)
	if err != nil {
		return nil, err
	}
	s.certs = certs
	l, err := library.Open(s.dir)
	if err != nil {
		return nil, err
	}
	return l.Serve(s.addr, s.certs)
}

func (s *settings) serve(ctx context.Context) error {
	server, err := s.start()
	if err != nil {
		return err
	}
	fmt.Printf("serving base images on %s; use SLIPWAY_CERTS_DIR=%s\n", server.Addr, s.certs)
	return server.Wait(ctx)
}

// exec runs a command with the registry at its side. When ctx ends the command is asked to end,
// and killed when it does not: the registry never outlives it, nor it the registry.
func (s *settings) exec(ctx context.Context, args []string) error {
	// Each run has a directory of its own: several may run at once, on different ports.
	certs, err := os.MkdirTemp("", "slipway-certs-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(certs)
	if s.certs == "" {
		s.certs = certs
	}
	server, err := s.start()
	if err != nil {
		return err
	}
	defer server.Close()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 20 * time.Second
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), "SLIPWAY_CERTS_DIR="+s.certs)
	return cmd.Run()
}

func (s *settings) list() error {
	l, err := library.Open(s.dir)
	if err != nil {
		return err
	}
	names, err := l.Names()
	if err != nil {
		return err
	}
	var lines []string
	for name, digest := range names {
		lines = append(lines, fmt.Sprintf("%-24s %s", name, digest))
	}
	slices.Sort(lines)
	for _, line := range lines {
		fmt.Println(line)
	}
	return nil
}
