package advise

import (
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
)

// lifecycle are scripts of package.json that are run with an installation.
func lifecycle() []string {
	return []string{"preinstall", "install", "postinstall", "prepublish", "preprepare", "prepare", "postprepare"}
}

// project says what is to be done instead of moving downloads that run or build something of the project, as it is not known what that asks for; "" where they do not.
func (g *graph) project(d *downloading, c *copied, named map[string]bool) string {
	for _, i := range d.of {
		if len(i.without) > 0 && i.has(i.without) {
			continue
		}
		for _, rel := range slices.Sorted(maps.Keys(named)) {
			base := path.Base(rel)
			if i.scripts && base == "package.json" {
				script, known := g.scriptOf(path.Join(c.from, rel))
				switch {
				case !known:
					return fmt.Sprintf("%s may run scripts of %s, which cannot be read now: if it does not, copy the files that it needs first, and the rest after it", i.words[0], rel)
				case script != "":
					return fmt.Sprintf("%s runs the script %s of %s with it, of which it is not known what files it asks for: copy the files that it needs first, run it with --ignore-scripts, and copy the rest and run the script after it",
						i.words[0], script, rel)
				}
			}
			if !slices.ContainsFunc(i.projects, func(p string) bool { is, _ := path.Match(p, base); return is }) {
				continue
			}
			change := fmt.Sprintf("%s builds or installs the project with it (%s), for which all of its files are to be there: download what it needs first, with the files that say so alone", i.words[0], rel)
			if len(i.without) > 0 {
				change += fmt.Sprintf(" (%s %s)", strings.Join(i.words, " "), i.without[0])
			}
			return change + ", and copy the rest and build it after that"
		}
	}
	return ""
}

// scriptOf is the script that an installation runs by a package.json of the context; "" is none. known: it could be read.
func (g *graph) scriptOf(name string) (script string, known bool) {
	data, err := g.built.Content(name)
	if err != nil {
		return "", false
	}
	var p struct {
		Scripts map[string]json.RawMessage `json:"scripts"`
	}
	if json.Unmarshal(data, &p) != nil {
		return "", false
	}
	for _, s := range lifecycle() {
		if _, is := p.Scripts[s]; is {
			return s, true
		}
	}
	return "", true
}
