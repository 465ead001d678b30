package environments

import (
	"strings"

	"github.com/moby/sys/capability"
)

// ownCapabilities are those that this process may give.
func ownCapabilities() []string {
	own, err := capability.NewPid2(0)
	if err != nil || own.Load() != nil {
		return nil
	}
	var names []string
	for _, c := range capability.ListKnown() {
		if own.Get(capability.BOUNDING, c) && own.Get(capability.PERMITTED, c) {
			names = append(names, "CAP_"+strings.ToUpper(c.String()))
		}
	}
	return names
}
