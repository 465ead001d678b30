package advise

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/view/imagesize"
)

// finding begins one about an instruction.
func finding(rule string, s *instruction, bytes int64) Finding {
	return Finding{Rule: rule, Line: s.node.StartLine, Instruction: s.text(), Bytes: bytes}
}

func files(n int) string {
	if n == 1 {
		return "1 file"
	}
	return fmt.Sprintf("%d files", n)
}

// plainRun reports whether an instruction is a RUN of a shell in lines of the Dockerfile.
func (s *instruction) plainRun() bool {
	return s.keyword == "RUN" && !s.node.Attributes["json"] && len(s.node.Heredocs) == 0
}

// cleaning is how a RUN avoids the leftovers of a rule: an option of the command that makes them, or a command more.
type cleaning struct {
	command *regexp.Regexp // that makes them; its first group gets option behind it
	option  string
	after   string
}

func cleanings() map[string][]cleaning {
	re := regexp.MustCompile
	return map[string][]cleaning{
		"apt-lists":    {{re(`\bapt(?:-get)? `), "", "rm -rf /var/lib/apt/lists/*"}},
		"apt-archives": {{re(`\bapt(?:-get)? `), "", "apt-get clean && rm -rf /var/cache/apt/*.bin"}},
		"apk-cache":    {{re(`(\bapk add)\b`), " --no-cache", ""}},
		"dnf-cache":    {{re(`\bdnf `), "", "dnf clean all"}, {re(`\bmicrodnf `), "", "microdnf clean all"}, {re(`\byum `), "", "yum clean all"}},
		"zypper-cache": {{re(`\bzypper `), "", "zypper clean --all"}},
		"pip-cache":    {{re(`(\bpip3? install)\b`), " --no-cache-dir", ""}},
		"npm-cache":    {{re(`\bnpm `), "", "npm cache clean --force"}, {re(`\byarn\b`), "", "yarn cache clean"}},
		"go-cache":     {{re(`\bgo (?:build|install|mod)\b`), "", "go clean -cache -modcache"}},
		"maven-cache":  {{re(`\bmvn `), "", "rm -rf /root/.m2/repository"}},
	}
}

// leftovers are those of package managers, in the RUN that made them.
func leftovers(d *dockerfile) (all []Finding) {
	known := cleanings()
	for _, l := range d.report.Leftovers {
		for _, share := range l.By {
			s := d.of(share.Instruction)
			if s == nil || !s.plainRun() {
				continue
			}
			for _, c := range known[l.ID] {
				if !c.command.MatchString(s.text()) {
					continue
				}
				f := finding(l.ID, s, share.Size)
				f.What, f.Change = fmt.Sprintf("%s stay in the image: %s", l.What, l.Why), l.Fix
				f.edits = d.clean(s, c)
				all = append(all, f)
				break
			}
		}
	}
	return all
}

// clean has a RUN leave nothing behind.
func (d *dockerfile) clean(s *instruction, c cleaning) []edit {
	lines := slices.Clone(d.lines[s.node.StartLine-1 : s.node.EndLine])
	if c.option != "" {
		for i, l := range lines {
			lines[i] = c.command.ReplaceAllString(l, "${1}"+c.option)
		}
		return []edit{{s.node.StartLine, s.node.EndLine, lines}}
	}
	last := len(lines) - 1
	if strings.HasPrefix(strings.TrimSpace(lines[last]), "#") || strings.HasSuffix(strings.TrimSpace(lines[last]), `\`) {
		return nil // a comment, or nothing, ends the instruction
	}
	lines[last] = strings.TrimRight(lines[last], " \t;") + ` \`
	return []edit{{s.node.StartLine, s.node.EndLine, append(lines, "    && "+c.after)}}
}

// What a RUN is that does nothing but change owners or modes, and one that makes users.
func onlyChown() *regexp.Regexp {
	return regexp.MustCompile(`^RUN\s+chown\s+(?:-R\s+|--recursive\s+)?([\w.-]+(?::[\w.-]*)?)\s+(\S+)$`)
}

func onlyChmod() *regexp.Regexp {
	return regexp.MustCompile(`^RUN\s+chmod\s+(?:-R\s+|--recursive\s+)?([0-7]{3,4})\s+(\S+)$`)
}

func newUser() *regexp.Regexp { return regexp.MustCompile(`\b(adduser|useradd|addgroup|groupadd)\b`) }

// rewritten are files that a COPY brings and a RUN writes once more, for another mode or owner.
func rewritten(d *dockerfile) (all []Finding) {
	for _, p := range d.report.Pairs {
		copied, run := d.of(p.Instruction), d.of(p.HiddenBy)
		if p.How != imagesize.Rewritten || copied == nil || run == nil || run.keyword != "RUN" || copied.keyword != "COPY" && copied.keyword != "ADD" {
			continue
		}
		f := finding("copied-twice", run, p.Size)
		f.What = fmt.Sprintf("%s that line %d copies: in the image twice, as this changes mode or owner", files(p.Files), copied.node.StartLine)
		f.Change = fmt.Sprintf("line %d: %s --chown=… or --chmod=…, which directories above get as well that it makes", copied.node.StartLine, copied.keyword)
		f.edits = d.changeCopy(copied, run)
		all = append(all, f)
	}
	return all
}

// changeCopy has a COPY do what a RUN does that does nothing else.
func (d *dockerfile) changeCopy(copied, run *instruction) []edit {
	flag := ""
	if m := onlyChown().FindStringSubmatch(run.text()); m != nil && d.covers(copied, m[2]) && d.knows(copied, run, m[1]) {
		flag = "--chown=" + m[1]
	} else if m := onlyChmod().FindStringSubmatch(run.text()); m != nil && d.covers(copied, m[2]) {
		flag = "--chmod=" + m[1]
	}
	name, _, _ := strings.Cut(flag, "=")
	if flag == "" || strings.Contains(copied.text(), name) {
		return nil
	}
	lines := slices.Clone(d.lines[copied.node.StartLine-1 : copied.node.EndLine])
	word := regexp.MustCompile(`(?i)^(\s*` + copied.keyword + `)\b`)
	lines[0] = word.ReplaceAllString(lines[0], "${1} "+flag)
	return []edit{{copied.node.StartLine, copied.node.EndLine, lines}, {run.node.StartLine, run.node.EndLine, nil}}
}

// covers reports whether all that a COPY writes is at a path, and nothing else of what stands before is.
func (d *dockerfile) covers(copied *instruction, name string) bool {
	words := strings.Fields(copied.text())
	dest := path.Clean(words[len(words)-1])
	return path.IsAbs(dest) && path.Clean(name) == dest
}

// knows reports whether the owner is there when the COPY runs: a number, or a name that no instruction makes meanwhile.
func (d *dockerfile) knows(copied, run *instruction, owner string) bool {
	if strings.Trim(owner, "0123456789:") == "" {
		return true
	}
	return !slices.ContainsFunc(d.steps, func(s *instruction) bool {
		return s.index > copied.index && s.index < run.index && s.keyword == "RUN" && newUser().MatchString(s.text())
	})
}

// deleted are files that one instruction writes and another one deletes.
func deleted(d *dockerfile) (all []Finding) {
	for _, p := range d.report.Pairs {
		wrote, run := d.of(p.Instruction), d.of(p.HiddenBy)
		if p.How != imagesize.Deleted || wrote == nil || run == nil || run.keyword != "RUN" {
			continue
		}
		f := finding("deleted-later", run, p.Size)
		f.What = fmt.Sprintf("%s that line %d writes: still in the image, although this deletes it", files(p.Files), wrote.node.StartLine)
		switch {
		case wrote.keyword == "RUN":
			f.Change = fmt.Sprintf("delete them in the RUN of line %d", wrote.node.StartLine)
			f.edits = d.join(wrote, run)
		default:
			f.Change = fmt.Sprintf("show them to the RUN that uses them, in place of line %d: RUN --mount=type=bind,source=…,target=…", wrote.node.StartLine)
		}
		all = append(all, f)
	}
	return all
}

// join makes one RUN of two that follow each other.
func (d *dockerfile) join(a, b *instruction) []edit {
	if b.index != a.index+1 || !a.plainRun() || !b.plainRun() || len(a.node.Flags)+len(b.node.Flags) > 0 {
		return nil
	}
	first := slices.Clone(d.lines[a.node.StartLine-1 : a.node.EndLine])
	second := slices.Clone(d.lines[b.node.StartLine-1 : b.node.EndLine])
	for _, lines := range [][]string{first, second} {
		if strings.HasPrefix(strings.TrimSpace(lines[len(lines)-1]), "#") || strings.HasSuffix(strings.TrimSpace(lines[len(lines)-1]), `\`) {
			return nil
		}
	}
	first[len(first)-1] = strings.TrimRight(first[len(first)-1], " \t;") + ` \`
	second[0] = regexp.MustCompile(`(?i)^\s*RUN\s+`).ReplaceAllString(second[0], "    && ")
	// An || of the first would take the second as its own.
	if strings.Contains(a.text(), "||") || strings.Contains(b.text(), "||") {
		return nil
	}
	between := slices.Clone(d.lines[a.node.EndLine : b.node.StartLine-1])
	between = slices.DeleteFunc(between, func(l string) bool { return strings.TrimSpace(l) == "" })
	return []edit{{a.node.StartLine, b.node.EndLine, append(append(first, between...), second...)}}
}

// compilers are those in the image of a Dockerfile of one stage, whose program is known.
func compilers(d *dockerfile) []Finding {
	var bytes int64
	var what []string
	for _, l := range d.report.Leftovers {
		if slices.Contains([]string{"compilers", "headers", "static-libraries", "go-cache", "cargo-cache", "maven-cache"}, l.ID) {
			bytes += l.Size
			what = append(what, l.What)
		}
	}
	program, last := d.program()
	if !d.single || bytes == 0 || last == nil {
		return nil
	}
	f := Finding{Rule: "compiler-in-image", Line: d.from.StartLine, Instruction: d.from.Original, Bytes: bytes}
	f.What = "the image has what its program was compiled with: " + strings.Join(what, ", ")
	f.Change = "a stage that compiles, and a last one with the program alone"
	if program != "" {
		f.Bytes = d.report.Size - d.sizeOf(program)
		f.edits = d.split(program, last)
	}
	return []Finding{f}
}

// program is the file that the image runs, if it needs nothing else: a static executable that one of the Dockerfile's RUN has made; and the last RUN.
func (d *dockerfile) program() (name string, last *instruction) {
	dir, entry, cmd := "/", "", ""
	for _, s := range d.steps {
		words := []string{}
		for n := s.node.Next; n != nil; n = n.Next {
			words = append(words, n.Value)
		}
		switch s.keyword {
		case "RUN":
			last = s
		case "WORKDIR":
			if len(words) == 1 {
				dir = path.Join("/", words[0])
				if !path.IsAbs(words[0]) {
					dir = path.Join(dir, words[0])
				}
			}
		case "ENTRYPOINT", "CMD":
			if s.node.Attributes["json"] && len(words) > 0 {
				if s.keyword == "CMD" {
					cmd = words[0]
				} else {
					entry = words[0]
				}
			}
		}
	}
	if name = entry; name == "" {
		name = cmd
	}
	if !strings.Contains(name, "/") || last == nil {
		return "", last
	}
	if !path.IsAbs(name) {
		name = path.Join(dir, name)
	}
	if !d.static(name) {
		return "", last
	}
	return name, last
}

func (d *dockerfile) sizeOf(name string) int64 {
	p, err := layer.Resolve(d.tree, name, true)
	if err != nil {
		return 0
	}
	e, err := d.tree.Lstat(p)
	if err != nil {
		return 0
	}
	return e.Size
}

// static reports whether a file is an executable that needs no library.
func (d *dockerfile) static(name string) bool {
	if n := d.sizeOf(name); n == 0 || n > 1<<30 {
		return false
	}
	data, err := layer.ReadFile(d.tree, name)
	if err != nil {
		return false
	}
	return staticELF(data)
}

// split puts what runs into a stage of its own: all instructions after the last RUN that change nothing but the configuration.
func (d *dockerfile) split(program string, last *instruction) []edit {
	if len(strings.Fields(d.from.Original)) > 2 && strings.Contains(strings.ToUpper(d.from.Original), " AS ") {
		return nil
	}
	for _, s := range d.steps {
		if s.index > last.index && !slices.Contains([]string{"ENTRYPOINT", "CMD", "ENV", "LABEL", "EXPOSE", "USER", "WORKDIR", "STOPSIGNAL", "HEALTHCHECK", "VOLUME"}, s.keyword) {
			return nil
		}
	}
	for _, s := range d.steps {
		if words := strings.Fields(s.text()); s.keyword == "USER" && (len(words) != 2 || strings.Trim(words[1], "0123456789:") != "") {
			return nil // there are no names in an empty stage
		}
	}
	stage := []string{"", "FROM scratch"}
	if _, err := d.tree.Lstat("etc/ssl/certs/ca-certificates.crt"); err == nil {
		stage = append(stage, "COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/")
	}
	for _, s := range d.steps { // what configures the image and stands before the last RUN
		if s.index < last.index && (s.keyword == "WORKDIR" || s.keyword == "ENV" || s.keyword == "USER") {
			stage = append(stage, d.lines[s.node.StartLine-1:s.node.EndLine]...)
		}
	}
	stage = append(stage, fmt.Sprintf("COPY --from=build %s %s", program, program))
	return []edit{
		{d.from.StartLine, d.from.EndLine, []string{d.from.Original + " AS build"}},
		{last.node.EndLine + 1, last.node.EndLine, stage},
	}
}
