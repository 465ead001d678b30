package imagesize

import (
	"path"
	"strings"
)

// A Rule tells leftovers by where they are. Rules are looked at in the order of the table, in directories from the root
// down: what is in a directory that a rule has is that one's.
type Rule struct {
	ID   string   `json:"rule"`
	What string   `json:"what"`
	Why  string   `json:"why"` // it need not be in an image that runs something
	Fix  string   `json:"fix"` // a line, or a part of one, that avoids it
	dirs []string // "/var/x" is a directory, "**/x" one of that name anywhere; the last part may be a pattern
	file []string // "**/x" are files of that name anywhere, "/x" one file
}

// Rules makes the table of all rules.
func Rules() []Rule {
	return []Rule{
		{"apt-lists", "lists of packages of apt", "apt-get update makes them again",
			"RUN --mount=type=cache,target=/var/lib/apt/lists … or: apt-get update && apt-get install … && rm -rf /var/lib/apt/lists/*",
			[]string{"/var/lib/apt/lists"}, nil},
		{"apt-archives", "archives and caches of apt", "the packages are installed",
			"RUN --mount=type=cache,target=/var/cache/apt … or: && apt-get clean", []string{"/var/cache/apt", "/var/cache/debconf"}, nil},
		{"apk-cache", "cache of apk", "the packages are installed", "apk add --no-cache …", []string{"/var/cache/apk", "/etc/apk/cache"}, nil},
		{"dnf-cache", "caches of dnf, yum and microdnf", "the packages are installed", "dnf install … && dnf clean all",
			[]string{"/var/cache/dnf", "/var/cache/yum", "/var/cache/libdnf5", "/var/cache/PackageKit"}, nil},
		{"zypper-cache", "cache of zypper", "the packages are installed", "zypper install … && zypper clean --all", []string{"/var/cache/zypp"}, nil},
		{"pacman-cache", "cache of pacman", "the packages are installed", "pacman -S … && pacman -Scc --noconfirm", []string{"/var/cache/pacman"}, nil},
		{"pip-cache", "caches of pip, uv and poetry", "the packages are installed", "RUN --mount=type=cache,target=/root/.cache/pip … or: pip install --no-cache-dir …",
			[]string{"**/.cache/pip", "**/.cache/uv", "**/.cache/pypoetry"}, nil},
		{"npm-cache", "caches of npm, yarn and pnpm", "node_modules has the packages", "RUN --mount=type=cache,target=/root/.npm npm ci",
			[]string{"**/.npm/_cacache", "**/.npm/_logs", "**/.cache/yarn", "**/share/.cache", "**/share/pnpm/store", "**/.pnpm-store"}, nil},
		{"go-cache", "modules and build cache of Go", "a program that was built needs neither",
			"RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build go build …", []string{"**/go/pkg/mod", "**/.cache/go-build"}, nil},
		{"cargo-cache", "registry of cargo", "a program that was built does not need it", "RUN --mount=type=cache,target=/usr/local/cargo/registry cargo build …",
			[]string{"**/.cargo/registry", "**/.cargo/git", "/usr/local/cargo/registry", "/usr/local/cargo/git"}, nil},
		{"maven-cache", "repositories of Maven and Gradle", "what was built has, or names, what it needs of them", "RUN --mount=type=cache,target=/root/.m2 mvn package",
			[]string{"**/.m2/repository", "**/.gradle/caches", "**/.gradle/wrapper"}, nil},
		{"gem-cache", "archives of gem and bundler", "the gems are installed", "bundle install && bundle clean, with BUNDLE_NO_CACHE, or: gem install --no-document … && rm -rf /usr/local/bundle/cache",
			[]string{"**/bundle/cache", "**/.bundle/cache", "**/.gem/specs"}, nil},
		{"composer-cache", "cache of composer", "vendor has the packages", "composer install --no-cache", []string{"**/.composer/cache", "**/.cache/composer"}, nil},
		{"conda-cache", "archives of conda", "the packages are installed", "conda install … && conda clean --all --yes", []string{"**/conda/pkgs", "**/miniconda3/pkgs", "**/mambaforge/pkgs"}, nil},
		{"bytecode", "compiled files of Python", "Python makes them, or does without", "ENV PYTHONDONTWRITEBYTECODE=1, and: pip install --no-compile …",
			[]string{"**/__pycache__"}, []string{"**/*.pyc", "**/*.pyo"}},
		{"vcs", "a repository", "what runs does not need its history, in which there may be secrets", ".dockerignore: .git",
			[]string{"**/.git", "**/.hg", "**/.svn"}, nil},
		{"logs", "logs", "they tell of the build", "&& rm -rf /var/log/* in the same RUN", []string{"/var/log"}, nil},
		{"temporary", "temporary files", "nobody looks for them again", "RUN --mount=type=tmpfs,target=/tmp … or: && rm -rf /tmp/* in the same RUN", []string{"/tmp", "/var/tmp"}, nil},
		{"compilers", "compilers and what belongs to them", "what runs was compiled before", "a stage that compiles, and in the last one: COPY --from=build …",
			[]string{"/usr/lib/gcc", "/usr/libexec/gcc", "/usr/local/lib/gcc", "/usr/local/libexec/gcc", "/usr/lib/gcc-cross", "/usr/local/go", "/usr/lib/go", "/usr/lib/go-*",
				"/usr/lib/llvm*", "**/.rustup/toolchains", "/usr/local/rustup", "**/jmods", "/usr/share/gcc", "/usr/share/cmake*", "/usr/lib/rustlib"},
			[]string{"**/lib/ct.sym", "**/lib/src.zip", "/usr/bin/x86_64-linux-gnu-lto-dump*", "/usr/bin/aarch64-linux-gnu-lto-dump*"}},
		{"headers", "headers", "compilers need them, programs do not", "a stage that compiles, and in the last one: COPY --from=build …",
			[]string{"/usr/include", "/usr/local/include"}, nil},
		{"static-libraries", "static libraries", "linkers need them, programs do not", "a stage that compiles, and in the last one: COPY --from=build …",
			nil, []string{"**/lib*.a", "**/*.la"}},
		{"docs", "documentation", "nobody reads it there",
			`apt: RUN echo 'path-exclude /usr/share/doc/*' > /etc/dpkg/dpkg.cfg.d/docs; dnf: --setopt=tsflags=nodocs; apk: leave out -doc`,
			[]string{"/usr/share/doc", "/usr/share/man", "/usr/share/info", "/usr/share/gtk-doc", "/usr/local/share/man", "/usr/local/share/doc", "/usr/local/man"}, nil},
		{"locales", "translations of messages", "messages are shown in one language", `apt: RUN echo 'path-exclude /usr/share/locale/*' > /etc/dpkg/dpkg.cfg.d/locales`,
			[]string{"/usr/share/locale", "/usr/share/i18n"}, nil},
	}
}

// matches reports whether a path, which begins with a slash, is what a pattern of a rule says.
func matches(pattern, name string) bool {
	if suffix, anywhere := strings.CutPrefix(pattern, "**"); anywhere {
		dir, last := path.Split(suffix)
		if !strings.ContainsRune(last, '*') {
			return strings.HasSuffix(name, suffix)
		}
		at, base := path.Split(name)
		ok, _ := path.Match(last, base)
		return ok && strings.HasSuffix(at, dir)
	}
	if !strings.ContainsRune(pattern, '*') {
		return name == pattern
	}
	ok, _ := path.Match(pattern, name)
	return ok
}

func ruleOfDir(all []Rule, name string) *Rule {
	for i := range all {
		for _, p := range all[i].dirs {
			if matches(p, name) {
				return &all[i]
			}
		}
	}
	return nil
}

func ruleOfFile(all []Rule, name string) *Rule {
	for i := range all {
		for _, p := range all[i].file {
			if matches(p, name) {
				return &all[i]
			}
		}
	}
	return nil
}
