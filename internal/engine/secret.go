package engine

import (
	"cmp"
	"errors"
	"fmt"
	"net"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/solver/pb"

	"github.com/slipway-build/slipway/internal/sandbox"
)

// secret returns the value of a secret, and remembers that the step's output must not show it.
func (x *execution) secret(id string) ([]byte, error) {
	value, err := x.r.opt.Secrets.Secret(x.ctx, id)
	if err == nil {
		x.hidden = append(x.hidden, value)
	}
	return value, err
}

// secretMount shows a secret as a file. One that was not given and is not required is not there,
// as in BuildKit.
func (x *execution) secretMount(m *pb.Mount) error {
	opt := m.SecretOpt
	if opt == nil {
		return errors.New("invalid secret mount options")
	}
	if opt.ID == "" {
		return errors.New("secret ID missing from mount options")
	}
	value, err := x.secret(opt.ID)
	if errdefs.IsNotFound(err) && opt.Optional {
		return nil
	}
	if err != nil {
		return secretHint(opt.ID, err)
	}
	x.spec.Mounts = append(x.spec.Mounts, sandbox.Mount{Dest: x.dest(m), File: &sandbox.File{
		Data: value, Mode: opt.Mode & 0o777, UID: int(opt.Uid), GID: int(opt.Gid),
	}})
	return nil
}

// secretEnv gives secrets as variables. One that was not given and is not required is empty, as in
// BuildKit.
func (x *execution) secretEnv() error {
	for _, opt := range x.op.Secretenv {
		if opt.ID == "" {
			return fmt.Errorf("secret ID missing for %q environment variable", opt.Name)
		}
		value, err := x.secret(opt.ID)
		if err != nil && !(errdefs.IsNotFound(err) && opt.Optional) {
			return secretHint(opt.ID, err)
		}
		x.spec.Env = append(x.spec.Env, opt.Name+"="+string(value))
	}
	return nil
}

// secretHint adds how a secret is given to an error about one that was not.
func secretHint(id string, err error) error {
	if !errdefs.IsNotFound(err) {
		return err
	}
	return fmt.Errorf("%w\n  give it with --secret id=%s,src=FILE or --secret id=%s,env=VARIABLE", err, id, id)
}

// sshMount shows an SSH agent as a socket.
func (x *execution) sshMount(m *pb.Mount) error {
	opt := m.SSHOpt
	if opt == nil {
		return errors.New("invalid ssh mount options")
	}
	if err := x.r.opt.SSH.Check(opt.ID); err != nil {
		if opt.Optional {
			return nil
		}
		return fmt.Errorf("%w\n  give an agent or keys with --ssh %s", err, cmp.Or(opt.ID, "default"))
	}
	x.spec.Mounts = append(x.spec.Mounts, sandbox.Mount{Dest: x.dest(m), Socket: &sandbox.Socket{
		Serve: func(l net.Listener) error { return x.r.opt.SSH.Serve(x.ctx, opt.ID, l) },
		Mode:  opt.Mode & 0o777, UID: int(opt.Uid), GID: int(opt.Gid),
	}})
	return nil
}
