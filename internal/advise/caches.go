package advise

import (
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/slipway-build/slipway/internal/reasons"
)

// toolCache is where a tool keeps what it need not fetch or make again.
type toolCache struct {
	name    string
	command *regexp.Regexp
	dirs    []string // the ends of their paths
	sharing string   // of the mount; "" is shared
	first   string   // what is to be changed besides; "" is nothing
}

func toolCaches() []toolCache {
	re := regexp.MustCompile
	return []toolCache{
		{"go", re(`\bgo (?:build|install|test|mod|get|vet|run|generate)\b`), []string{"/.cache/go-build", "/go/pkg/mod"}, "", ""},
		{"npm", re(`\bnpm (?:ci|install|i|clean-install|exec)\b`), []string{"/.npm"}, "", ""},
		{"yarn", re(`\byarn\b`), []string{"/.cache/yarn", "/.yarn/berry/cache"}, "", ""},
		{"pnpm", re(`\bpnpm (?:install|i|fetch)\b`), []string{"/pnpm/store"}, "", ""},
		{"pip", re(`\bpip3? (?:install|download|wheel)\b`), []string{"/.cache/pip"}, "", ""},
		{"uv", re(`\buv (?:sync|pip)\b`), []string{"/.cache/uv"}, "", ""},
		{"poetry", re(`\bpoetry install\b`), []string{"/.cache/pypoetry"}, "", ""},
		{"cargo", re(`\bcargo (?:build|fetch|install|test|check)\b`), []string{"/cargo/registry", "/.cargo/registry", "/cargo/git", "/.cargo/git"}, "", ""},
		{"maven", re(`\bmvnw? `), []string{"/.m2/repository"}, "", ""},
		{"gradle", re(`\bgradlew? `), []string{"/.gradle/caches", "/.gradle/wrapper"}, "", ""},
		{"composer", re(`\bcomposer install\b`), []string{"/.composer/cache", "/.cache/composer"}, "", ""},
		{"dotnet", re(`\bdotnet (?:restore|build|publish)\b`), []string{"/.nuget/packages"}, "", ""},
		{"ccache", re(`\b(?:make|cmake|ninja|gcc|cc)\b`), []string{"/.ccache", "/.cache/ccache"}, "", ""},
		{
			"apt", re(`\bapt(?:-get)? install\b|\bapt(?:-get)? -\S+ install\b`), []string{"/var/cache/apt", "/var/lib/apt/lists"}, "locked",
			"images of Debian delete what was downloaded: rm /etc/apt/apt.conf.d/docker-clean before, and no rm -rf /var/lib/apt/lists",
		},
		{"apk", re(`\bapk add\b`), []string{"/var/cache/apk"}, "locked", "without --no-cache"},
		{"dnf", re(`\b(?:dnf|yum|microdnf) install\b`), []string{"/var/cache/dnf", "/var/cache/yum"}, "locked", "without clean all"},
	}
}

// cached are RUNs that ran more than once, whose tool began with an empty cache each time.
func cached(d *dockerfile) (all []Finding) {
	g := d.built
	if g == nil {
		return nil
	}
	known := toolCaches()
	for _, o := range g.ops {
		if o.Operation() != "exec" || o.node == nil || !strings.EqualFold(o.node.Value, "RUN") || len(o.node.Heredocs) > 0 {
			continue
		}
		runs := g.built.Runs(reasons.Step(o.Name))
		if len(runs) < 2 {
			continue
		}
		for _, tool := range known {
			if !tool.command.MatchString(o.node.Original) {
				continue
			}
			if f := g.cacheMount(o, tool, runs); f != nil {
				all = append(all, *f)
				break
			}
		}
	}
	return all
}

// cacheMount has a RUN, and all others that use the same, have a mount for a tool's cache.
func (g *graph) cacheMount(o *op, tool toolCache, runs []time.Duration) *Finding {
	dirs := map[string]int{}
	for _, e := range g.opened(o).root() {
		if dir := cacheDir(tool, e.path); dir != "" {
			dirs[dir]++
		}
	}
	if len(dirs) == 0 {
		return nil
	}
	where := slices.Sorted(maps.Keys(dirs))
	f := finding("cache-mount", o.instruction(), 0)
	f.Seconds = again(runs).Seconds()
	f.What = fmt.Sprintf("it ran %s in the builds that are recorded, each time with nothing in the cache of %s (%s): %s s after the first one",
		times(len(runs)), tool.name, strings.Join(where, ", "), seconds(again(runs)))
	var mounts []string
	for _, dir := range where {
		m := "--mount=type=cache,target=" + dir
		if tool.sharing != "" {
			m += ",sharing=" + tool.sharing
		}
		mounts = append(mounts, m)
	}
	f.Change = "RUN " + strings.Join(mounts, " ") + ", and what is there is not in the image"
	if tool.first != "" {
		f.Change += "; " + tool.first
		return &f
	}
	f.edits = g.mountEdits(where)
	return &f
}

// seconds are some with as many digits as are of use.
func seconds(d time.Duration) string {
	if d < 10*time.Second {
		return fmt.Sprintf("%.1f", d.Seconds())
	}
	return fmt.Sprintf("%.0f", d.Seconds())
}

// cacheDir is the directory of a tool's cache that a path lies in; "" is none.
func cacheDir(tool toolCache, name string) string {
	for _, end := range tool.dirs {
		for from := 0; ; {
			i := strings.Index(name[from:], end+"/")
			if i < 0 {
				break
			}
			from += i + len(end)
			if dir := name[:from]; plainDir(dir) {
				return dir
			}
		}
	}
	return ""
}

// plainDir reports whether a path can stand in an option of a mount.
func plainDir(dir string) bool {
	return !strings.ContainsAny(dir, " \t\n,\"'\\$=") && path.IsAbs(dir) && path.Clean(dir) == dir
}

// mountEdits give all RUNs that use some directories mounts for them; nil where it is not known which these are, or something else needs what is there.
func (g *graph) mountEdits(where []string) (edits []edit) {
	for _, o := range g.ops {
		switch o.Operation() {
		case "exec":
			t := g.opened(o)
			uses := slices.DeleteFunc(slices.Clone(where), func(dir string) bool {
				return !slices.ContainsFunc(t.root(), func(e entry) bool { _, is := below(dir, e.path); return is })
			})
			if !t.whole || len(uses) > 0 && !g.mountable(o) {
				return nil
			}
			if len(uses) > 0 {
				edits = append(edits, g.withMounts(o, uses))
			}
		case "file":
			copies, _ := o.Copies()
			for _, c := range copies {
				if !g.apartFrom(o, c, where) {
					return nil
				}
			}
		case "merge", "diff":
			return nil
		}
	}
	return edits
}

// apartFrom reports whether what an op copies has nothing to do with some directories.
func (g *graph) apartFrom(o *op, c reasons.Copied, where []string) bool {
	if c.From == "" || strings.ContainsAny(c.From, `*?[\`) {
		return false
	}
	return !slices.ContainsFunc(where, func(dir string) bool {
		from, to := path.Clean("/"+c.From), path.Clean("/"+c.To)
		_, into := below(dir, to)
		_, in := below(dir, from)
		_, with := below(from, dir)
		return into || !g.ofContext(o) && (in || with)
	})
}

// mountable reports whether a RUN can get mounts that are root's.
func (g *graph) mountable(o *op) bool {
	user := o.User()
	return o.node != nil && strings.EqualFold(o.node.Value, "RUN") && len(o.node.Heredocs) == 0 &&
		(user == "" || user == "root" || user == "0" || strings.HasPrefix(user, "root:") || strings.HasPrefix(user, "0:"))
}

// withMounts is a RUN with more mounts.
func (g *graph) withMounts(o *op, dirs []string) edit {
	lines := slices.Clone(g.lines[o.node.StartLine-1 : o.node.EndLine])
	mounts := ""
	for _, dir := range dirs {
		mounts += " --mount=type=cache,target=" + dir
	}
	indent := len(lines[0]) - len(strings.TrimLeft(lines[0], " \t"))
	word := indent + len(o.node.Value)
	lines[0] = lines[0][:word] + mounts + lines[0][word:]
	return edit{o.node.StartLine, o.node.EndLine, lines}
}
