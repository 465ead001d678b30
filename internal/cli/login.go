package cli

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	dockerconfig "github.com/docker/cli/cli/config"
	"github.com/docker/cli/cli/config/configfile"
	"github.com/docker/cli/cli/config/credentials"
	"github.com/docker/cli/cli/config/types"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

const (
	hubHost = "docker.io"
	// hubKey is where docker's config.json keeps the credentials of Docker Hub.
	hubKey = "https://index.docker.io/v1/"
)

type loginFlags struct {
	user, password string
	fromStdin      bool
}

func newLoginCmd(a *app) *cobra.Command {
	var flags loginFlags
	cmd := &cobra.Command{
		Use:   "login [OPTIONS] [SERVER]",
		Short: "Authenticate to a registry",
		Args:  maxArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkLoginFlags(cmd, flags); err != nil {
				return err
			}
			return a.login(cmd.Context(), server(args), flags)
		},
	}
	if !a.calls(cmd) {
		return cmd
	}
	f := cmd.Flags()
	f.StringVarP(&flags.user, "username", "u", "", "Username")
	f.StringVarP(&flags.password, "password", "p", "", `Password or Personal Access Token (PAT), or "-" to read from stdin`)
	f.BoolVar(&flags.fromStdin, "password-stdin", false, "Take the Password or Personal Access Token (PAT) from stdin")
	return cmd
}

func newLogoutCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "logout [SERVER]",
		Short: "Log out from a registry",
		Args:  maxArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.logout(server(args))
		},
	}
}

// checkLoginFlags has Docker's rules and words.
func checkLoginFlags(cmd *cobra.Command, flags loginFlags) error {
	given := cmd.Flags().Changed
	stdin := given("password-stdin") || flags.password == "-"
	switch {
	case stdin && given("password") && flags.password != "-":
		return errors.New("conflicting options: cannot specify both --password and --password-stdin")
	case stdin && !given("username"):
		return errors.New("the --password-stdin option requires --username to be set")
	case given("username") && flags.user == "":
		return errors.New("username is empty")
	case given("password") && flags.password == "":
		return errors.New("password is empty")
	}
	return nil
}

// server is the key of a registry in config.json: its host, for Docker Hub the address of old.
func server(args []string) string {
	if len(args) == 0 || args[0] == "" || args[0] == hubHost || args[0] == hubKey {
		return hubKey
	}
	return credentials.ConvertToHostname(args[0])
}

// hostOf is how references name the registry of a key.
func hostOf(key string) string {
	if key == hubKey {
		return hubHost
	}
	return key
}

func (a *app) login(ctx context.Context, key string, flags loginFlags) error {
	if flags.password == "-" {
		flags.password, flags.fromStdin = "", true
	}
	if flags.password != "" {
		fmt.Fprintln(a.stderr, "WARNING! Using --password via the CLI is insecure. Use --password-stdin.")
	}
	if flags.fromStdin {
		var err error
		if flags.password, err = secretFrom(a.stdin); err != nil {
			return err
		}
	}
	config, err := a.dockerConfig()
	if err != nil {
		return err
	}
	auth := types.AuthConfig{Username: flags.user, Password: flags.password, ServerAddress: key}
	if flags.user == "" && flags.password == "" {
		known, err := config.GetAuthConfig(key)
		if err == nil && known.Username != "" && known.Password != "" {
			fmt.Fprintf(a.stderr, "Authenticating with existing credentials... [Username: %s]\n", known.Username)
			known.ServerAddress = key
			if err = a.loginWith(ctx, config, known); err == nil {
				return nil
			}
			fmt.Fprintln(a.stderr, "Login did not succeed, error:", err)
		}
		auth.Username = known.Username
	}
	if err := a.askCredentials(ctx, &auth, flags); err != nil {
		return err
	}
	return a.loginWith(ctx, config, auth)
}

// loginWith asks the registry whether it knows the credentials, and keeps them if it does.
func (a *app) loginWith(ctx context.Context, config *configfile.ConfigFile, auth types.AuthConfig) error {
	token, err := a.registry().Login(ctx, hostOf(auth.ServerAddress), auth.Username, auth.Password)
	if err != nil {
		return err
	}
	if token != "" {
		auth.Password, auth.IdentityToken = "", token
	}
	if err := config.GetCredentialsStore(auth.ServerAddress).Store(auth); err != nil {
		return fmt.Errorf("error saving credentials: %w", err)
	}
	_, err = fmt.Fprintln(a.stdout, "Login Succeeded")
	return err
}

// askCredentials asks on the terminal for what the flags leave open. auth.Username is proposed.
func (a *app) askCredentials(ctx context.Context, auth *types.AuthConfig, flags loginFlags) error {
	if flags.user != "" && flags.password != "" {
		return nil
	}
	in := terminalOf(a.stdin)
	if in == nil {
		return errors.New("cannot perform an interactive login from a non-TTY device")
	}
	lines := bufio.NewReader(in)
	if flags.user == "" {
		prompt := "Username: "
		if auth.Username != "" {
			prompt = fmt.Sprintf("Username (%s): ", auth.Username)
		}
		answer, err := a.ask(ctx, lines, prompt)
		if err != nil {
			return err
		}
		if answer != "" {
			auth.Username = answer
		}
		if auth.Username == "" {
			return errors.New("username is required")
		}
	}
	if flags.password != "" {
		return nil
	}
	restore, err := withoutEcho(in)
	if err != nil {
		return fmt.Errorf("asking for the password: %w", err)
	}
	auth.Password, err = a.ask(ctx, lines, "Password: ")
	fmt.Fprintln(a.stdout)
	if err := errors.Join(err, restore()); err != nil {
		return err
	}
	if auth.Password == "" {
		return errors.New("password is required")
	}
	return nil
}

// ask reads a line from the terminal. When it is interrupted, the reading goes on until the process ends.
func (a *app) ask(ctx context.Context, r *bufio.Reader, prompt string) (string, error) {
	if _, err := io.WriteString(a.stdout, prompt); err != nil {
		return "", err
	}
	answer := make(chan string, 1)
	go func() {
		line, _ := r.ReadString('\n') // the end of input is no answer
		answer <- strings.TrimSpace(line)
	}()
	select {
	case <-ctx.Done():
		return "", context.Cause(ctx)
	case line := <-answer:
		return line, nil
	}
}

// withoutEcho keeps a terminal from showing what is typed.
func withoutEcho(f *os.File) (restore func() error, err error) {
	old, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		return nil, err
	}
	quiet := *old
	quiet.Lflag &^= unix.ECHO
	restore = func() error { return unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, old) }
	return restore, unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, &quiet)
}

// secretFrom reads a password to the end of the input, without the end of its last line.
func secretFrom(r io.Reader) (string, error) {
	raw, err := io.ReadAll(r)
	if err != nil {
		return "", fmt.Errorf("reading the password: %w", err)
	}
	for _, eol := range []string{"\r\n", "\n", "\r"} {
		if rest, ok := bytes.CutSuffix(raw, []byte(eol)); ok {
			raw = rest
			break
		}
	}
	if len(bytes.TrimSpace(raw)) == 0 {
		return "", errors.New("password is empty")
	}
	return string(raw), nil
}

func (a *app) logout(key string) error {
	config, err := a.dockerConfig()
	if err != nil {
		return err
	}
	keys := []string{key}
	if key != hubKey { // older versions of docker have kept it under one of these
		keys = append(keys, "http://"+key, "https://"+key)
	}
	if _, err := fmt.Fprintln(a.stdout, "Removing login credentials for", key); err != nil {
		return err
	}
	failed := map[string]error{}
	for _, k := range keys {
		if err := config.GetCredentialsStore(k).Erase(k); err != nil {
			failed[k] = err
		}
	}
	if len(failed) == len(keys) {
		fmt.Fprintln(a.stderr, "WARNING: could not erase credentials:")
		for _, k := range slices.Sorted(maps.Keys(failed)) {
			fmt.Fprintf(a.stderr, "%s: %s\n", k, failed[k])
		}
	}
	return nil
}

// dockerConfig reads docker's config.json. One that is not there is empty.
func (a *app) dockerConfig() (*configfile.ConfigFile, error) {
	if os.Getenv(configfile.DockerEnvConfigKey) != "" {
		fmt.Fprintf(a.stderr, "WARNING: %[1]s is set and takes precedence.\nUnset %[1]s to restore the CLI auth behaviour.\n", configfile.DockerEnvConfigKey)
	}
	config, err := dockerconfig.Load("")
	if err != nil {
		return nil, fmt.Errorf("reading registry credentials: %w", err)
	}
	return config, nil
}
