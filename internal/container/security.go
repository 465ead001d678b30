package container

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"

	"github.com/slipway-build/slipway/internal/sandbox"
)

// SecurityOption is the name and the value of one of Docker's security options: NAME=VALUE, or NAME:VALUE as of old.
func SecurityOption(opt string) (name, value string) {
	name, value, ok := strings.Cut(opt, "=")
	if !ok {
		name, value, _ = strings.Cut(opt, ":")
	}
	return name, value
}

// Secure has a container have one of Docker's security options, of which a seccomp profile is its text.
func (o *Options) Secure(opt string) (err error) {
	switch name, value := SecurityOption(opt); {
	case name == "apparmor":
		o.AppArmor = value
	case name == "seccomp" && value == "builtin":
	case name == "seccomp":
		if err := sandbox.CheckSeccomp(value); err != nil {
			return err
		}
		o.Seccomp = value
	case name == "no-new-privileges":
		if o.NoNewPrivileges, err = strconv.ParseBool(cmp.Or(value, "true")); err != nil {
			return fmt.Errorf("invalid --security-opt: %q", opt)
		}
	case name == "label" && value == "disable", name == "writable-cgroups" && value == "false":
	default:
		return fmt.Errorf("invalid --security-opt: %q is not served: privileged drops all restrictions", opt)
	}
	return nil
}
