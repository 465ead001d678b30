package sandbox

import (
	"fmt"
	"sync"

	profile "github.com/moby/profiles/apparmor"
	"github.com/opencontainers/runc/libcontainer/apparmor"
)

// AppArmorUnconfined is the name of no AppArmor profile, AppArmorDefault that of Docker's.
const (
	AppArmorUnconfined = "unconfined"
	AppArmorDefault    = "docker-default"
)

// appArmorProfile is the name under which slipway loads Docker's profile: one that Docker loaded allows signals of
// Docker alone.
const appArmorProfile = "slipway-default"

// appArmor is the profile of a container, or nothing.
func appArmor(spec *Spec) (string, error) {
	switch {
	case spec.AppArmor == AppArmorUnconfined || spec.AppArmor == "" && spec.Insecure:
		return "", nil
	case spec.AppArmor == "":
		name, err := defaultAppArmor()
		if err != nil {
			return "", nil // without apparmor_parser, or the right to load a profile
		}
		return name, nil
	case !apparmor.IsEnabled():
		return "", fmt.Errorf("AppArmor profile %s: this kernel has no AppArmor, or it is not enabled", spec.AppArmor)
	case spec.AppArmor != AppArmorDefault:
		return spec.AppArmor, nil
	}
	name, err := defaultAppArmor()
	if err != nil {
		return "", fmt.Errorf("loading the AppArmor profile %s: %w", spec.AppArmor, err)
	}
	return name, nil
}

// defaultAppArmor loads Docker's profile, unless it is there. Without AppArmor it is "".
var defaultAppArmor = sync.OnceValues(func() (string, error) {
	if !apparmor.IsEnabled() {
		return "", nil
	}
	if loaded, err := profile.IsLoaded(appArmorProfile); err == nil && loaded {
		return appArmorProfile, nil
	}
	return appArmorProfile, profile.InstallDefault(appArmorProfile)
})
