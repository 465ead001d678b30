package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// SeccompUnconfined is no seccomp profile.
const SeccompUnconfined = "unconfined"

// ownSeccomp reports whether a process has a seccomp profile of its own.
func (s *Spec) ownSeccomp() bool { return s.Seccomp != "" && s.Seccomp != SeccompUnconfined }

// A seccomp profile of a user's is bounded, in bytes and in conditions on a call each: to compile many takes long.
const (
	maxSeccomp    = 256 << 10
	maxConditions = 4096
)

// CheckSeccomp refuses what is no seccomp profile, or none that a process can have.
func CheckSeccomp(profile string) error {
	caps, err := capabilities(false)
	if err != nil {
		return err
	}
	p, err := seccompOf(&Spec{Seccomp: profile}, caps)
	if err != nil || p == nil || !seccompCompiled {
		return err
	}
	if _, err := compileFilter(p); err != nil {
		return fmt.Errorf("compiling the seccomp profile: %w", err)
	}
	return nil
}

// seccompOf is the seccomp profile of a process with some capabilities; nil is none.
func seccompOf(spec *Spec, caps []string) (*specs.LinuxSeccomp, error) {
	switch {
	case spec.ownSeccomp():
		return loadSeccomp(spec.Seccomp, caps)
	case spec.Seccomp == SeccompUnconfined, spec.Insecure:
		return nil, nil
	case spec.tweaked():
		return seccompFor(caps)
	}
	return seccompProfile()
}

// loadSeccomp is a seccomp profile of a user's, for a process with some capabilities.
func loadSeccomp(text string, caps []string) (*specs.LinuxSeccomp, error) {
	var read seccomp.Seccomp
	err := json.Unmarshal([]byte(text), &read)
	if err == nil {
		err = checkRules(text, &read)
	}
	var profile *specs.LinuxSeccomp
	if err == nil {
		profile, err = seccomp.LoadProfile(text, withCaps(caps))
	}
	if err != nil {
		return nil, fmt.Errorf("reading the seccomp profile: %w", err)
	}
	return profile, nil
}

// checkRules refuses what the profile has that is not carried out, also in rules for other capabilities, kernels and architectures.
func checkRules(text string, p *seccomp.Seccomp) error {
	switch {
	case len(text) > maxSeccomp:
		return fmt.Errorf("it is too large: it has more than %d bytes", maxSeccomp)
	case p.DefaultAction == "" && len(p.Syscalls) == 0: // which is none
		return nil
	case p.ListenerPath != "" || p.ListenerMetadata != "":
		return errors.New("no process is asked by the filter: listenerPath and listenerMetadata are not served")
	}
	for _, flag := range p.Flags {
		if flag != specs.LinuxSeccompFlagSpecAllow && flag != "SECCOMP_FILTER_FLAG_TSYNC" { // the one is always set, the other one is for threads
			return fmt.Errorf("the flag %s is not served", flag)
		}
	}
	if err := checkAction(p.DefaultAction, p.DefaultErrnoRet); err != nil {
		return err
	}
	conditions := 0
	for _, rule := range p.Syscalls {
		if rule == nil { // the library takes it for one
			return errors.New("a rule is null")
		}
		if conditions += max(1, len(rule.Names)) * max(1, len(rule.Args)); conditions > maxConditions {
			return fmt.Errorf("it is too large: it has more than %d conditions on calls", maxConditions)
		}
		if err := checkAction(rule.Action, rule.ErrnoRet); err != nil {
			return err
		}
		for _, arg := range rule.Args {
			if arg.Index > maxArgument || !slices.Contains(seccompOperators, arg.Op) {
				return fmt.Errorf("a condition on argument %d with the operator %q: want an argument up to %d and one of %q", arg.Index, arg.Op, maxArgument, seccompOperators)
			}
		}
	}
	return nil
}

// maxArgument is the last argument of a system call, and maxErrno the last number of an error that libseccomp takes: the kernel's is 4095.
const (
	maxArgument = 5
	maxErrno    = 4094
)

var (
	seccompActions   = []specs.LinuxSeccompAction{specs.ActAllow, specs.ActLog, specs.ActErrno, specs.ActTrap, specs.ActKill, specs.ActKillThread, specs.ActKillProcess}
	seccompOperators = []specs.LinuxSeccompOperator{specs.OpEqualTo, specs.OpNotEqual, specs.OpGreaterThan, specs.OpGreaterEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpMaskedEqual}
)

// checkAction refuses unknown actions, and errors that the kernel does not know. With 0 a call that is refused seems to be done.
func checkAction(action specs.LinuxSeccompAction, errno *uint) error {
	switch {
	case !slices.Contains(seccompActions, action):
		return fmt.Errorf("unknown action %q: want one of %q", action, seccompActions)
	case action == specs.ActErrno && errno != nil && *errno > maxErrno:
		return fmt.Errorf("the error %d of an action: want at most %d", *errno, maxErrno)
	}
	return nil
}
