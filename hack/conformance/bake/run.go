package bake

import (
	"net"
	"path/filepath"
	"regexp"
	"strings"
)

// Program is buildx or slipway.
type Program interface {
	// Bake runs "bake ARGS" in a directory, with no other variables in the environment than those given and what no
	// definition asks for.
	Bake(dir string, env, args []string) (stdout, stderr []byte, exit int, err error)
}

// Run lets a program answer a command line.
func (c *Case) Run(p Program, dir string, args []string) (*Run, error) {
	real := make([]string, len(args))
	for i, a := range args {
		real[i] = strings.ReplaceAll(a, "$DIR", dir)
	}
	env := []string{"HOME=" + dir}
	for _, e := range c.Env {
		env = append(env, strings.ReplaceAll(e, "$DIR", dir))
	}
	stdout, stderr, exit, err := p.Bake(dir, env, real)
	if err != nil {
		return nil, err
	}
	r := &Run{Args: args, Exit: exit, Stderr: Message(string(stderr), dir)}
	r.SetStdout([]byte(strings.ReplaceAll(string(stdout), dir, "$DIR")))
	return r, nil
}

// progress is the lines of the display, as text or as JSON, and what AWS' library says when it asks the network who it is.
var progress = regexp.MustCompile(`(?m)^(#\d+ .*|\{.*\}|SDK \d.*)?\n`)

// Message is what was written to stderr without the progress.
func Message(stderr, dir string) string {
	return strings.TrimSpace(strings.ReplaceAll(progress.ReplaceAllString(stderr, ""), dir, "$DIR"))
}

// Agent makes a socket in a directory that passes for an SSH agent, and returns the variable that names it.
func Agent(dir string) (variable string, close func() error, err error) {
	l, err := net.Listen("unix", filepath.Join(dir, "agent"))
	if err != nil {
		return "", nil, err
	}
	return "SSH_AUTH_SOCK=" + filepath.Join(dir, "agent"), l.Close, nil
}
