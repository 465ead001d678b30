package cli

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/slipway-build/slipway/internal/container"
	"github.com/slipway-build/slipway/internal/store"
)

func newCreateCmd(a *app) *cobra.Command {
	var opts containerFlags
	cmd := &cobra.Command{
		Use:   "create [OPTIONS] IMAGE [COMMAND] [ARG...]",
		Short: "Create a new container",
		Args:  minArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.createContainer(cmd, &opts, args)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(a.stdout, c.ID)
			return err
		},
	}
	if !a.calls(cmd) {
		return cmd
	}
	f := cmd.Flags()
	opts.add(f)
	f.Lookup("pull").Usage = `Pull image before creating ("always", "missing", "never")`
	return cmd
}

// createContainer finds or pulls the image that args name first, and creates a container of it. The
// flags' own errors have Docker's exit code.
func (a *app) createContainer(cmd *cobra.Command, flags *containerFlags, args []string) (c store.Container, err error) {
	if err := flags.check(cmd, a.stderr); err != nil {
		return c, failed(err)
	}
	opts, err := flags.options(cmd, args[1:])
	if err != nil {
		return c, failed(err)
	}
	id, err := newIDFile(flags.cidFile)
	if err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, id.close()) }()
	img, err := a.openImageFor(cmd, flags, args[0])
	if err != nil {
		return c, err
	}
	if err := makeBindSources(opts.Mounts); err != nil {
		return c, err
	}
	m, err := a.containers()
	if err != nil {
		return c, err
	}
	if c, err = m.Create(cmd.Context(), flags.name, img, opts); err != nil {
		return c, err
	}
	return c, id.write(c.ID)
}

// openImageFor is openImage with --quiet.
func (a *app) openImageFor(cmd *cobra.Command, flags *containerFlags, name string) (*container.Image, error) {
	if flags.pull == "" {
		flags.pull = "missing"
	}
	if !flags.quiet {
		return a.openImage(cmd.Context(), name, flags.platform, flags.pull)
	}
	if _, err := a.Store(); err != nil { // for the copy to share it
		return nil, err
	}
	silent := *a
	silent.stderr = io.Discard
	return silent.openImage(cmd.Context(), name, flags.platform, flags.pull)
}

// idFile is the file of --cidfile. It is made before the container, and removed when none comes of it.
type idFile struct {
	file    *os.File // nil without --cidfile
	written bool
}

func newIDFile(path string) (*idFile, error) {
	if path == "" {
		return &idFile{}, nil
	}
	if _, err := os.Stat(path); err == nil {
		return nil, errors.New("container ID file found, make sure the other container isn't running or delete " + path)
	}
	f, err := os.Create(path)
	if err != nil {
		return nil, fmt.Errorf("failed to create the container ID file: %w", err)
	}
	return &idFile{file: f}, nil
}

func (f *idFile) write(id string) error {
	if f.file == nil {
		return nil
	}
	if _, err := f.file.WriteString(id); err != nil {
		return fmt.Errorf("failed to write the container ID (%s) to file: %w", id, err)
	}
	f.written = true
	return nil
}

func (f *idFile) close() error {
	if f.file == nil {
		return nil
	}
	err := f.file.Close()
	if !f.written {
		err = errors.Join(err, os.Remove(f.file.Name()))
	}
	return err
}
