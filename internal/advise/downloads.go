package advise

import (
	"slices"
	"strings"
)

// downloads are commands that fetch what others have made, by their first words, with the words of which one comes next; nil: any. They open all files that
// they depend on.
func downloads() map[string][]string {
	return map[string][]string{
		"apt-get": nil, "apt": nil, "apk": nil, "dnf": nil, "microdnf": nil, "yum": nil, "zypper": nil, "pacman": nil,
		"npm": {"ci", "install", "i", "clean-install"}, "yarn": {"", "install"}, "pnpm": {"install", "i", "fetch"}, "bun": {"install"},
		"go": {"mod download", "install"}, "cargo": {"fetch"}, "pip": {"install", "download"}, "pip3": {"install", "download"}, "uv": {"sync", "pip install"},
		"python": {"-m pip install"}, "python3": {"-m pip install"}, "poetry": {"install"}, "pipenv": {"install", "sync"}, "bundle": {"install"}, "gem": {"install"},
		"composer": {"install"}, "mvn": {"dependency:go-offline", "dependency:resolve", "-B dependency:go-offline", "-B dependency:resolve"},
		"./mvnw": {"dependency:go-offline", "dependency:resolve"}, "gradle": {"dependencies"}, "./gradlew": {"dependencies"}, "dotnet": {"restore"}, "mix": {"deps.get"},
		"curl": nil, "wget": nil,
	}
}

// harmless are commands that look at nothing but what they are told, and whose changes are seen in the layer.
func harmless() []string {
	return []string{"rm", "mkdir", "echo", "true", ":", "set", "sleep", "update-ca-certificates", "corepack"}
}

// lookedAt are files beside those that a download opens of which it may only ask whether they are there, or that it reads once they are there.
func lookedAt() []string {
	return []string{
		".npmrc", "npm-shrinkwrap.json", "package-lock.json", "binding.gyp", ".yarnrc", ".yarnrc.yml", "yarn.lock", "pnpm-workspace.yaml", "pnpm-lock.yaml", ".pnpmfile.cjs", "bun.lock",
		"bun.lockb", "bunfig.toml", "go.sum", "go.work", "go.work.sum", "vendor/modules.txt", "Cargo.lock", ".cargo/config.toml", ".cargo/config", "rust-toolchain", "rust-toolchain.toml",
		"pip.conf", "setup.cfg", "uv.lock", "uv.toml", "poetry.lock", "poetry.toml", "Pipfile.lock", "Gemfile.lock", ".bundle/config", ".ruby-version", "composer.lock", "auth.json",
		".mvn/maven.config", ".mvn/jvm.config", ".mvn/extensions.xml", "gradle.properties", "settings.gradle", "settings.gradle.kts", "nuget.config", "NuGet.Config", "global.json", "Directory.Build.props",
		"mix.lock",
	}
}

// onlyDownloads reports whether a command of a shell is nothing but downloads one after the other.
func onlyDownloads(command string) bool {
	if strings.ContainsAny(command, "|`<(){}*?[]\"'$") || strings.Contains(strings.ReplaceAll(command, "&&", ""), "&") {
		return false
	}
	found, known := false, downloads()
	for part := range strings.FieldsFuncSeq(strings.ReplaceAll(command, "&&", ";"), func(r rune) bool { return r == ';' || r == '\n' }) {
		words := strings.Fields(part)
		for len(words) > 0 && strings.Contains(words[0], "=") { // variables
			words = words[1:]
		}
		switch {
		case len(words) == 0 || slices.Contains(harmless(), words[0]):
		case download(known, words):
			found = true
		default:
			return false
		}
	}
	return found
}

func download(known map[string][]string, words []string) bool {
	next, is := known[words[0]]
	if !is || next == nil {
		return is
	}
	rest := strings.Join(words[1:], " ")
	return slices.ContainsFunc(next, func(w string) bool { return rest == w || w != "" && strings.HasPrefix(rest, w+" ") })
}
