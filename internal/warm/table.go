package warm

import (
	"slices"
	"strings"
	"sync"
)

// tool is a program that keeps something.
type tool struct {
	name     string
	commands []string // that run it
	dirs     []dir
}

// dir is a directory that a tool keeps something in.
type dir struct {
	// places are where it is: the first one whose variable is set counts. "~" is the home directory, %u the name of the user.
	places []string
	locked bool // the tool does not expect another one to use it, or locks what is not in it
	built  bool // there is what was built of sources, with headers and libraries of the stage's base image
	root   bool // it is only used by uid 0
	// makes are words of a command that has the tool put there what it was asked to make.
	makes []string
}

// runners are programs that run others, which only their files tell.
var runners = []string{
	"make", "gmake", "cmake", "ninja", "meson", "just", "task", "mage", "rake", "tox", "nox", "bash", "sh", "ash", "dash", "zsh", "python", "node", "ruby", "perl",
}

// tools is the table. What is in a directory of it may only be what the tool can make or download again, and what it finds by what it is
// of: never what it was asked to make. (Poetry's virtual environments are in its cache directory as well, and packages that npx runs in npm's, so only parts of these are here.)
var tools = sync.OnceValue(func() []tool {
	shared := func(places ...string) dir { return dir{places: places} }
	locked := func(places ...string) dir { return dir{places: places, locked: true} }
	built := func(places ...string) dir { return dir{places: places, built: true} }
	return []tool{
		{"Go", []string{"go", "goreleaser", "golangci-lint", "xcaddy", "ko"}, []dir{
			built("$GOCACHE", "$XDG_CACHE_HOME/go-build", "~/.cache/go-build"), shared("$GOMODCACHE", "$GOPATH/pkg/mod", "~/go/pkg/mod")}},
		{"npm", []string{"npm", "npx"}, []dir{shared("$npm_config_cache/_cacache", "$NPM_CONFIG_CACHE/_cacache", "~/.npm/_cacache")}},
		{"yarn", []string{"yarn", "yarnpkg", "corepack"}, []dir{
			shared("$YARN_CACHE_FOLDER", "$XDG_CACHE_HOME/yarn", "~/.cache/yarn"), {places: []string{"/usr/local/share/.cache/yarn"}, root: true},
			shared("$YARN_GLOBAL_FOLDER/cache", "~/.yarn/berry/cache")}},
		{"pnpm", []string{"pnpm", "corepack"}, []dir{
			built("$npm_config_store_dir", "$PNPM_HOME/store", "$XDG_DATA_HOME/pnpm/store", "~/.local/share/pnpm/store")}},
		{"bun", []string{"bun", "bunx"}, []dir{shared("$BUN_INSTALL_CACHE_DIR", "$BUN_INSTALL/install/cache", "~/.bun/install/cache")}},
		{"pip", []string{"pip", "pipx", "pipenv", "tox", "nox"}, []dir{built("$PIP_CACHE_DIR", "$XDG_CACHE_HOME/pip", "~/.cache/pip")}},
		{"uv", []string{"uv", "uvx"}, []dir{built("$UV_CACHE_DIR", "$XDG_CACHE_HOME/uv", "~/.cache/uv")}},
		{"Poetry", []string{"poetry"}, []dir{
			shared("$POETRY_CACHE_DIR/cache", "$XDG_CACHE_HOME/pypoetry/cache", "~/.cache/pypoetry/cache"),
			built("$POETRY_CACHE_DIR/artifacts", "$XDG_CACHE_HOME/pypoetry/artifacts", "~/.cache/pypoetry/artifacts")}},
		{"cargo", []string{"cargo", "cross", "maturin", "wasm-pack", "trunk"}, []dir{ // its lock is beside these directories
			locked("$CARGO_HOME/registry", "~/.cargo/registry"), locked("$CARGO_HOME/git/db", "~/.cargo/git/db")}},
		{"Maven", []string{"mvn", "mvnw", "mvnd"}, []dir{
			{places: []string{"~/.m2/repository"}, locked: true, makes: []string{"install", "deploy", "install:install", "install:install-file"}}}},
		{"Gradle", []string{"gradle", "gradlew"}, []dir{
			locked("$GRADLE_USER_HOME/caches", "~/.gradle/caches"), locked("$GRADLE_USER_HOME/wrapper", "~/.gradle/wrapper")}},
		{"sbt", []string{"sbt", "sbtx", "mill", "cs", "coursier"}, []dir{
			locked("~/.ivy2/cache"), locked("~/.sbt/boot"), locked("$COURSIER_CACHE", "$XDG_CACHE_HOME/coursier", "~/.cache/coursier")}},
		{"NuGet", []string{"dotnet", "nuget", "msbuild"}, []dir{locked("$NUGET_PACKAGES", "~/.nuget/packages")}},
		{"Composer", []string{"composer"}, []dir{ // in which it is depends on files and variables of all kinds
			shared("$COMPOSER_CACHE_DIR", "$COMPOSER_HOME/cache", "$XDG_CACHE_HOME/composer", "~/.cache/composer"), shared("~/.composer/cache")}},
		{"Bundler", []string{"bundle", "bundler", "gem"}, []dir{
			shared("$BUNDLE_USER_CACHE", "$BUNDLE_USER_HOME/cache", "~/.bundle/cache"), shared("$GEM_HOME/cache")}},
		{"apt", []string{"apt", "apt-get", "aptitude"}, []dir{
			{places: []string{"/var/cache/apt/archives"}, locked: true, root: true}, {places: []string{"/var/lib/apt/lists"}, locked: true, root: true}}},
		{"ccache", []string{"ccache"}, []dir{shared("$CCACHE_DIR", "$XDG_CACHE_HOME/ccache", "~/.cache/ccache")}},
		{"sccache", []string{"sccache"}, []dir{shared("$SCCACHE_DIR", "$XDG_CACHE_HOME/sccache", "~/.cache/sccache")}},
		{"Bazel", []string{"bazel", "bazelisk"}, []dir{shared("$XDG_CACHE_HOME/bazel/_bazel_%u/cache", "~/.cache/bazel/_bazel_%u/cache")}},
	}
})

// named reports whether one of some words is a command of the tool.
func (t tool) named(words []string) bool {
	return slices.ContainsFunc(words, func(w string) bool { return slices.Contains(t.commands, command(w)) })
}

// there reports whether a program of the tool is in a list of directories.
func (t tool) there(has func(string) bool, list string) bool {
	if has == nil {
		return false
	}
	for _, dir := range strings.Split(list, ":") {
		for _, c := range t.commands {
			if strings.HasPrefix(dir, "/") && has(dir+"/"+c) {
				return true
			}
		}
	}
	return false
}
