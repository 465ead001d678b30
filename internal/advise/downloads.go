package advise

import (
	"path"
	"regexp"
	"slices"
	"strings"
)

// tool is a program that downloads what others have made, and opens all files that it depends on. Of files that are not there it is not known what it would have made of them.
type tool struct {
	names    []string
	commands []string // that download, without options; "" is none, and nil all of them
	// looks are files that it may only ask for, in the directory of a file that it opened, or reads once they are there.
	looks []string
	// lists: it lists directories to find its own files, all of which it opens. Other names mean nothing to it.
	lists bool
	// projects are files of a project that it does not only read, but builds or installs as well, and no file of which is to be missing then, unless an option says that it does not.
	projects []string
	without  []string
	// scripts: it runs those that package.json has for it.
	scripts bool
}

// tools are those whose downloads are known.
func tools() []tool {
	node := func(names []string, commands []string, looks ...string) tool {
		return tool{
			names: names, commands: commands, lists: true, scripts: true, without: []string{"--ignore-scripts"},
			looks: append(looks, "package.json", ".npmrc", "binding.gyp", ".nvmrc", ".node-version", ".tool-versions"),
		}
	}
	python := []string{"pip.conf", "constraints.txt", ".python-version"}
	return []tool{
		{names: []string{"apt-get", "apt", "apk", "dnf", "microdnf", "yum", "zypper", "pacman", "curl", "wget"}},
		node([]string{"npm"}, []string{"ci", "install", "i", "clean-install"}, "npm-shrinkwrap.json", "package-lock.json"),
		node([]string{"yarn", "yarnpkg"}, []string{"", "install"}, ".yarnrc", ".yarnrc.yml", "yarn.lock"),
		node([]string{"pnpm"}, []string{"install", "i", "fetch"}, "pnpm-workspace.yaml", "pnpm-lock.yaml", ".pnpmfile.cjs", ".pnpmfile.mjs"),
		node([]string{"bun"}, []string{"install"}, "bun.lock", "bun.lockb", "bunfig.toml"),
		{names: []string{"go"}, commands: []string{"mod download", "mod verify", "install", "env"}, looks: []string{"go.mod", "go.sum", "go.work", "go.work.sum", "vendor/modules.txt"}},
		{
			names: []string{"cargo"}, commands: []string{"fetch"}, // it fails where a package has nothing to compile
			looks: []string{"Cargo.lock", ".cargo/config.toml", ".cargo/config", "rust-toolchain", "rust-toolchain.toml", "src/main.rs", "src/lib.rs", "build.rs"},
		},
		{names: []string{"pip", "pip3"}, commands: []string{"install", "download"}, looks: python, lists: true, projects: []string{"setup.py", "setup.cfg", "pyproject.toml"}},
		{names: []string{"uv"}, commands: []string{"sync", "pip install"}, looks: append(python, "uv.lock", "uv.toml"), projects: []string{"setup.py", "setup.cfg", "pyproject.toml"}, without: []string{"--no-install-project", "--no-install-workspace"}},
		{names: []string{"poetry"}, commands: []string{"install", "config"}, looks: append(python, "poetry.lock", "poetry.toml"), projects: []string{"pyproject.toml"}, without: []string{"--no-root", "--only-root"}},
		{names: []string{"pipenv"}, commands: []string{"install", "sync"}, looks: append(python, "Pipfile.lock"), projects: []string{"setup.py", "setup.cfg", "pyproject.toml"}},
		{names: []string{"bundle", "bundler"}, commands: []string{"", "install", "config"}, looks: []string{"Gemfile.lock", ".bundle/config", ".ruby-version", ".tool-versions"}, lists: true, projects: []string{"*.gemspec"}},
		{names: []string{"gem"}, commands: []string{"install"}},
		{names: []string{"composer"}, commands: []string{"install"}, looks: []string{"composer.lock", "auth.json"}},
		{names: []string{"mvn", "./mvnw"}, commands: []string{"dependency:go-offline", "dependency:resolve", "dependency:resolve-plugins"}, looks: []string{".mvn/maven.config", ".mvn/jvm.config", ".mvn/extensions.xml"}},
		{names: []string{"gradle", "./gradlew"}, commands: []string{"dependencies"}, looks: []string{"gradle.properties", "settings.gradle", "settings.gradle.kts", "build.gradle", "build.gradle.kts"}},
		{names: []string{"dotnet"}, commands: []string{"restore"}, looks: []string{"nuget.config", "NuGet.Config", "NuGet.config", "global.json", "Directory.Build.props", "Directory.Build.targets", "Directory.Packages.props", "packages.lock.json"}, lists: true},
		{names: []string{"mix"}, commands: []string{"deps.get", "local.hex", "local.rebar"}, looks: []string{"mix.lock"}},
	}
}

// harmless are commands that look at nothing but what they are told, and whose changes are seen in the layer.
func harmless() []string {
	return []string{"rm", "mkdir", "echo", "true", ":", "set", "sleep", "update-ca-certificates", "corepack"}
}

// downloading is a command of a shell that is nothing but downloads one after the other.
type downloading struct {
	of   []invoked
	into []string // directories that the shell goes into
}

// invoked is a tool with the words that it is called with.
type invoked struct {
	*tool
	words []string
}

// has reports whether one of some options is given.
func (i *invoked) has(options []string) bool {
	return slices.ContainsFunc(i.words, func(w string) bool { return slices.Contains(options, w) })
}

// literal stands for a part of a word that a shell takes as it is: a plain text in quotes, or the value of a variable. Patterns in a value that are found list a directory.
const literal = "\x00"

// literals replaces such parts.
func literals(command string) string {
	command = strings.ReplaceAll(command, literal, "$")
	command = regexp.MustCompile(`\$(?:[A-Za-z_]\w*|\{[A-Za-z_]\w*\})`).ReplaceAllLiteralString(command, literal)
	return regexp.MustCompile("'[^']*'|\"[^\"$`\\\\]*\"").ReplaceAllLiteralString(command, literal)
}

// downloads reads a command of a shell; nil: it is something else.
func downloads(command string) *downloading {
	command = literals(command)
	if strings.ContainsAny(command, "|`<>(){}\"'$") || strings.Contains(strings.ReplaceAll(command, "&&", ""), "&") {
		return nil
	}
	d, known := &downloading{}, tools()
	for part := range strings.FieldsFuncSeq(strings.ReplaceAll(command, "&&", ";"), func(r rune) bool { return r == ';' || r == '\n' }) {
		words := strings.Fields(part)
		for len(words) > 0 && strings.Contains(words[0], "=") { // variables
			words = words[1:]
		}
		switch {
		case len(words) == 0:
		case strings.ContainsAny(part, "*?[]") && !removesElsewhere(words):
			return nil
		case words[0] == "cd" && len(words) == 2 && !strings.HasPrefix(words[1], "-") && !strings.Contains(words[1], literal):
			d.into = append(d.into, words[1])
		case slices.Contains(harmless(), words[0]):
		default:
			t := download(known, words)
			if t == nil {
				return nil
			}
			d.of = append(d.of, invoked{t, words})
		}
	}
	if len(d.of) == 0 {
		return nil
	}
	return d
}

// removesElsewhere reports whether a command with patterns removes what has absolute paths. What the shell lists for it is seen.
func removesElsewhere(words []string) bool {
	return words[0] == "rm" && !slices.ContainsFunc(words[1:], func(w string) bool { return !strings.HasPrefix(w, "-") && !path.IsAbs(w) })
}

// download is the tool of a command that downloads; nil: it is none.
func download(known []tool, words []string) *tool {
	if len(words) > 2 && (words[0] == "python" || words[0] == "python3") && words[1] == "-m" {
		words = words[2:]
	}
	var plain []string
	for _, w := range words[1:] {
		if !strings.HasPrefix(w, "-") {
			plain = append(plain, w)
		}
	}
	rest := strings.Join(plain, " ")
	for i := range known {
		t := &known[i]
		if slices.Contains(t.names, words[0]) &&
			(t.commands == nil || slices.ContainsFunc(t.commands, func(c string) bool { return rest == c || c != "" && strings.HasPrefix(rest, c+" ") })) {
			return t
		}
	}
	return nil
}
