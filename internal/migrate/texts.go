package migrate

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"mvdan.cc/sh/v3/syntax"
)

// text is what a file has when the script comes there.
func (in *interpreter) text(name string) (string, error) {
	name = in.at(name)
	if text, ok := in.texts[name]; ok {
		if text == unreadable {
			return "", errors.New("it is written in a way that is not followed")
		}
		return text, nil
	}
	data, err := os.ReadFile(filepath.Join(in.script.Dir, name))
	return string(data), err
}

func (in *interpreter) cat(names []string, redirs []*syntax.Redirect, to string) {
	if to == "" {
		return
	}
	var b strings.Builder
	missing := in.missing
	for _, r := range redirs {
		if r.Hdoc != nil {
			b.WriteString(in.word(r.Hdoc))
		}
	}
	for _, name := range names {
		text, err := in.text(name)
		if err != nil {
			in.texts[to] = unreadable
			return
		}
		b.WriteString(text)
	}
	if in.missing > missing { // what is not known would mean something else in a Dockerfile
		return
	}
	in.texts[to] = b.String()
}

func (in *interpreter) substitute(redirs []*syntax.Redirect, to string) {
	if to == "" {
		return
	}
	in.texts[to] = unreadable
	for _, r := range redirs {
		if r.Op != syntax.RdrIn {
			continue
		}
		if text, err := in.text(in.word(r.Word)); err == nil {
			in.texts[to] = os.Expand(text, func(name string) string {
				if v, ok := in.vars[name]; ok {
					return v
				}
				return "${" + name + "}"
			})
		}
	}
}

// sed follows commands s of sed whose expressions are plain.
func (in *interpreter) sed(line int, args []string, to string) {
	values, rest, bad := flags(args, "expression|e= in-place|i regexp-extended|E|r")
	scripts := values["expression"]
	if len(scripts) == 0 && len(rest) > 0 {
		scripts, rest = rest[:1], rest[1:]
	}
	text, err := "", errors.New("its flags or files are not followed")
	if bad == "" && len(rest) == 1 {
		text, err = in.text(rest[0])
	}
	if slices.ContainsFunc(args, func(a string) bool { return strings.HasPrefix(a, "-i") || strings.HasPrefix(a, "--in-place") }) {
		for _, name := range args { // each that may be a file
			if to = in.at(name); !strings.HasPrefix(name, "-") && (bad != "" || slices.Contains(rest, name)) {
				in.write(line, to)
			}
		}
	}
	if to == "" {
		return
	}
	for _, s := range scripts {
		for _, one := range strings.Split(s, ";") {
			if err == nil && unknown(one) {
				err = fmt.Errorf("%q is not known before the script runs", one)
			}
			if err == nil && strings.TrimSpace(one) != "" {
				text, err = substituted(text, strings.TrimSpace(one), len(values["regexp-extended"]) > 0)
			}
		}
	}
	if err != nil {
		in.note(line, "sed: %v", err)
		return
	}
	in.texts[to] = text
}

// substituted is a text after a command s/RE/TEXT/FLAGS.
func substituted(text, command string, extended bool) (string, error) {
	if len(command) < 4 || command[0] != 's' {
		return "", fmt.Errorf("%q is not followed, only s/…/…/ is", command)
	}
	parts := splitUnescaped(command[2:], command[1])
	if len(parts) != 3 || parts[2] != "" && parts[2] != "g" {
		return "", fmt.Errorf("%q is not followed", command)
	}
	re, err := expression(parts[0], extended)
	if err != nil || strings.ContainsAny(parts[1], "&\n") || regexp.MustCompile(`\\[0-9a-zA-Z\\]`).MatchString(parts[1]) {
		return "", fmt.Errorf("%q is not followed", command)
	}
	with := strings.ReplaceAll(parts[1], `\`, "")
	lines := strings.Split(text, "\n")
	for i, l := range lines {
		if done := i == len(lines)-1 && l == ""; done { // there is no line after the last one's end
			break
		}
		done := false
		lines[i] = re.ReplaceAllStringFunc(l, func(m string) string {
			if done && parts[2] != "g" {
				return m
			}
			done = true
			return with
		})
	}
	return strings.Join(lines, "\n"), nil
}

// splitUnescaped splits at a separator; one after a backslash loses that and stays.
func splitUnescaped(s string, sep byte) (parts []string) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\' && i+1 < len(s) && s[i+1] == sep:
			b.WriteByte(sep)
			i++
		case s[i] == '\\' && i+1 < len(s):
			b.WriteString(s[i : i+2])
			i++
		case s[i] == sep:
			parts = append(parts, b.String())
			b.Reset()
		default:
			b.WriteByte(s[i])
		}
	}
	return append(parts, b.String())
}

// expression makes a regular expression of sed one of Go, where both mean the same.
func expression(s string, extended bool) (*regexp.Regexp, error) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '\\' && i+1 < len(s) && strings.IndexByte(`.*[]^$/\-`, s[i+1]) >= 0:
			i++
			b.WriteString(regexp.QuoteMeta(s[i : i+1]))
		case c == '\\':
			return nil, errors.New("not followed")
		case strings.IndexByte(".*[]^$", c) >= 0, extended:
			b.WriteByte(c)
		default:
			b.WriteString(regexp.QuoteMeta(string(c)))
		}
	}
	re, err := regexp.Compile(b.String())
	if err == nil {
		re.Longest()
	}
	return re, err
}
