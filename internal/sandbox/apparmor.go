package sandbox

import (
	"fmt"
	"sync"

	profile "github.com/moby/profiles/apparmor"
	"github.com/opencontainers/runc/libcontainer/apparmor"
)

// AppArmorUnconfined is the name of no AppArmor profile.
const AppArmorUnconfined = "unconfined"

// appArmorProfile is the name of Docker's default profile as slipway loads it.
const appArmorProfile = "slipway-default"

// appArmor is the profile of a container that names one, or nothing, where the kernel has AppArmor.
func appArmor(spec *Spec) (string, error) {
	switch {
	case spec.AppArmor == AppArmorUnconfined || spec.AppArmor == "" && spec.Insecure:
		return "", nil
	case spec.AppArmor == "":
		return defaultAppArmor(), nil
	case !apparmor.IsEnabled():
		return "", fmt.Errorf("AppArmor profile %s: this kernel has no AppArmor, or it is not enabled", spec.AppArmor)
	}
	return spec.AppArmor, nil
}

// defaultAppArmor loads the default profile. It is "" where that cannot be done: without AppArmor, without
// apparmor_parser, which compiles profiles, or where nobody may load one.
var defaultAppArmor = sync.OnceValue(func() string {
	if !apparmor.IsEnabled() {
		return ""
	}
	if loaded, err := profile.IsLoaded(appArmorProfile); err == nil && loaded {
		return appArmorProfile
	}
	if profile.InstallDefault(appArmorProfile) != nil {
		return ""
	}
	return appArmorProfile
})
