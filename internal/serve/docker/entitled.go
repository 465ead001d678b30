package docker

import (
	"context"
	"fmt"
	"net/http"
	"slices"

	"github.com/slipway-build/slipway/internal/container"
	"github.com/slipway-build/slipway/internal/sandbox"
	"github.com/slipway-build/slipway/internal/store"
)

// The entitlements that clients may have, in BuildKit's words.
const (
	hostNetwork = "network.host"
	insecure    = "security.insecure"
)

// anotherSeccomp is what a client is told that has no right to it.
const anotherSeccomp = "a container with another seccomp profile"

// entitled refuses what needs an entitlement that clients of this server do not have. what is said to the client.
func (s *Server) entitled(entitlement, what string) error {
	if slices.Contains(s.opt.Entitlements, entitlement) {
		return nil
	}
	return failure{http.StatusForbidden, fmt.Sprintf("%s needs the entitlement %s, which clients of this server do not have: slipway serve --allow-insecure-entitlement=%s gives it to them", what, entitlement, entitlement)}
}

// mayUse refuses a container that has more rights, or reaches more of the machine, than clients may give one: what runs in it would have them, whoever made it.
func (s *Server) mayUse(m *container.Manager, c *container.Config) error {
	if c.Network == sandbox.NetworkHost {
		if err := s.entitled(hostNetwork, "a container with the host's network"); err != nil {
			return err
		}
	}
	if c.Privileged {
		if err := s.entitled(insecure, "a privileged container"); err != nil {
			return err
		}
	}
	if c.AppArmor != "" && c.AppArmor != sandbox.AppArmorDefault {
		if err := s.entitled(insecure, "a container with the AppArmor profile "+c.AppArmor); err != nil {
			return err
		}
	}
	if c.Seccomp != "" {
		if err := s.entitled(insecure, anotherSeccomp); err != nil {
			return err
		}
	}
	if c.MaskedPaths != nil || c.ReadonlyPaths != nil {
		if err := s.entitled(insecure, "a container with masked or read-only paths of its own"); err != nil {
			return err
		}
	}
	for name := range c.Sysctls {
		if sandbox.ReachesHost(name) {
			if err := s.entitled(insecure, "a container with the sysctl "+name); err != nil {
				return err
			}
		}
	}
	for _, name := range c.CapAdd {
		if !sandbox.DefaultCapability(name) {
			if err := s.entitled(insecure, "a container with "+name); err != nil {
				return err
			}
		}
	}
	for _, b := range c.Mounts {
		if err := s.mayMount(m, b); err != nil {
			return err
		}
	}
	return nil
}

// mayMount refuses a mount of the host's files.
func (s *Server) mayMount(m *container.Manager, b sandbox.Mount) error {
	if b.Bind == "" || m.VolumeOf(b.Bind) != "" {
		return nil
	}
	return s.entitled(insecure, "a container with "+b.Bind+" of the host")
}

// usable is the container that a request is about, in which the client may have something run, and whose files it may reach.
func (r *request) usable(ctx context.Context) (context.Context, *container.Manager, store.Container, error) {
	ctx, m, c, err := r.container(ctx)
	if err == nil {
		err = r.s.mayEnter(m, c)
	}
	return ctx, m, c, err
}

// mayEnter is mayUse of a container that there is.
func (s *Server) mayEnter(m *container.Manager, c store.Container) error {
	config, err := container.ReadConfig(c)
	if err != nil {
		return err
	}
	return s.mayUse(m, config)
}

// privilegedExec is what a client is told that has no right to it.
const privilegedExec = "a privileged process in a container"
