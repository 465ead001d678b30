package isolation

import (
	"fmt"
	"strings"
)

// AppArmorProfile is a profile by which a program may make user namespaces, and may do otherwise what it may do without one.
func AppArmorProfile(program string) string {
	quoted := strings.NewReplacer(`\`, `\\`, `"`, `\"`, "*", `\*`, "?", `\?`, "[", `\[`, "]", `\]`, "{", `\{`, "}", `\}`, "^", `\^`, "@", `\@`).Replace(program)
	return fmt.Sprintf("abi <abi/4.0>,\ninclude <tunables/global>\nprofile slipway \"%s\" flags=(unconfined) {\n  userns,\n}\n", quoted)
}

// AppArmorCommand installs that profile.
func AppArmorCommand(program string) string {
	var lines []string
	for line := range strings.Lines(AppArmorProfile(program)) {
		lines = append(lines, "'"+strings.ReplaceAll(strings.TrimSuffix(line, "\n"), "'", `'\''`)+"'")
	}
	return "printf '%s\\n' " + strings.Join(lines, " ") + " | sudo tee /etc/apparmor.d/slipway && sudo apparmor_parser -r /etc/apparmor.d/slipway"
}
