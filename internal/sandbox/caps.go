package sandbox

import (
	"fmt"
	"slices"
	"strings"

	"github.com/moby/profiles/seccomp"
	"github.com/moby/sys/capability"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// AllCapabilities is the name in [Spec].CapAdd and CapDrop that stands for all.
const AllCapabilities = "ALL"

// Capability gives a name as the user wrote it the form CAP_NAME, or ALL. The error of an unknown one
// is Docker's.
func Capability(name string) (string, error) {
	c := strings.ToUpper(strings.TrimSpace(name))
	if c == AllCapabilities {
		return c, nil
	}
	if !strings.HasPrefix(c, "CAP_") {
		c = "CAP_" + c
	}
	if !slices.ContainsFunc(capability.ListKnown(), func(k capability.Cap) bool { return capName(k) == c }) {
		return "", fmt.Errorf("unknown capability: %q", c)
	}
	return c, nil
}

// DefaultCapability reports whether processes have a capability, CAP_NAME, without being given it.
func DefaultCapability(name string) bool { return slices.Contains(defaultCaps, name) }

func capName(c capability.Cap) string { return "CAP_" + strings.ToUpper(c.String()) }

// tweaked reports whether a process has other capabilities than the default ones.
func (s *Spec) tweaked() bool { return !s.Insecure && len(s.CapAdd)+len(s.CapDrop) > 0 }

// capabilitySet is what a process may do, by Docker's rules (moby, daemon/pkg/oci/caps): ALL among
// those to add is all but the dropped ones, ALL among those to drop leaves just the added ones.
func capabilitySet(spec *Spec) ([]string, error) {
	base, err := capabilities(spec.Insecure)
	if err != nil || spec.Insecure {
		return base, err
	}
	if spec.sharesNetwork {
		base = slices.DeleteFunc(base, func(c string) bool { return slices.Contains(sharedNetworkDrops, c) })
	}
	if !spec.tweaked() {
		return base, nil
	}
	all, err := capabilities(true) // that this process may give
	if err != nil {
		return nil, err
	}
	added := func(c string) bool { return slices.Contains(spec.CapAdd, c) }
	dropped := func(c string) bool { return slices.Contains(spec.CapDrop, c) }
	var set []string
	for _, c := range all {
		var keep bool
		switch {
		case added(AllCapabilities):
			keep = !dropped(c)
		case dropped(AllCapabilities):
			keep = added(c)
		default:
			keep = added(c) || slices.Contains(base, c) && !dropped(c)
		}
		if keep {
			set = append(set, c)
		}
	}
	return set, nil
}

// withCaps is what a profile is told of a process.
func withCaps(caps []string) *specs.Spec {
	return &specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}}}
}

// seccompFor is Docker's profile for a set of capabilities, some of which allow more system calls.
func seccompFor(caps []string) (*specs.LinuxSeccomp, error) {
	profile, err := seccomp.GetDefaultProfile(withCaps(caps))
	if err != nil {
		return nil, fmt.Errorf("making the seccomp profile: %w", err)
	}
	return profile, nil
}
