package conformance

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/moby/buildkit/client"
)

func decompress(data []byte, mediaType string) ([]byte, error) {
	switch {
	case strings.HasSuffix(mediaType, "gzip"):
		r, err := gzip.NewReader(bytes.NewReader(data))
		if err != nil {
			return nil, err
		}
		return io.ReadAll(r)
	case strings.HasSuffix(mediaType, "zstd"):
		r, err := zstd.NewReader(nil)
		if err != nil {
			return nil, err
		}
		defer r.Close()
		return r.DecodeAll(data, nil)
	case strings.HasSuffix(mediaType, "tar"):
		return data, nil
	}
	return nil, fmt.Errorf("unknown media type %s", mediaType)
}

// Status is what a builder said on stderr: with --progress=rawjson a line of JSON for each status,
// and its error as text.
type Status struct {
	Steps    map[string]string // "ran" or "cached" by name
	Warnings []string
	Error    string
	Excerpt  []string
	Log      string
}

// ParseStatus reads what a builder said.
func ParseStatus(stderr []byte) (*Status, error) {
	s := &Status{Steps: map[string]string{}}
	var rest []string
	for line := range strings.Lines(string(stderr)) {
		if !strings.HasPrefix(line, "{") {
			rest = append(rest, strings.TrimRight(line, "\n"))
			continue
		}
		var st client.SolveStatus
		if err := json.Unmarshal([]byte(line), &st); err != nil {
			return nil, fmt.Errorf("reading progress %q: %w", line, err)
		}
		s.add(&st)
	}
	s.readError(rest)
	slices.Sort(s.Warnings)
	s.Warnings = slices.Compact(s.Warnings)
	return s, nil
}

var stepName = regexp.MustCompile(`^\[[^\]]*\d+/\d+\] `)

func (s *Status) add(st *client.SolveStatus) {
	for _, v := range st.Vertexes {
		if !stepName.MatchString(v.Name) || strings.Contains(v.Name, "] FROM ") {
			continue
		}
		switch {
		case v.Cached:
			s.Steps[v.Name] = "cached"
		case v.Completed != nil && s.Steps[v.Name] == "":
			s.Steps[v.Name] = "ran"
		}
	}
	for _, w := range st.Warnings {
		line := 0
		if len(w.Range) > 0 {
			line = int(w.Range[0].Start.GetLine())
		}
		s.Warnings = append(s.Warnings, fmt.Sprintf("line %d: %s", line, w.Short))
	}
	for _, l := range st.Logs {
		s.Log += string(l.Data)
	}
}

var (
	place    = regexp.MustCompile(`^Dockerfile\S*:\d+$`)
	prefixes = regexp.MustCompile(`^(?i:error: )(failed to build: )?(failed to solve: )?`)
	volatile = []struct { // in errors
		re *regexp.Regexp
		to string
	}{
		{regexp.MustCompile(`^failed to load LLB: |^failed to load cache key: |rpc error: code = Unknown desc = `), ""},
		{regexp.MustCompile(`failed to compute cache key: failed to calculate checksum of ref [a-z0-9]+::[a-z0-9]+: `), ""},
		{regexp.MustCompile(`/\S*/cachemounts/buildkit\d+`), ""},
		{regexp.MustCompile(`/dev/shm/\S*(case-\d+)/(context|dockerfiles)`), "$2"},
		{regexp.MustCompile(`sha256:[0-9a-f]{64}`), "sha256:..."},
		{regexp.MustCompile(`layer [0-9a-f]{12}-\d+`), "LAYER"},
		{regexp.MustCompile(`127\.0\.0\.1:\d+`), "REGISTRY"},
		{regexp.MustCompile(`\n  look inside: .*`), ""},
		{regexp.MustCompile(`/dev/shm/slipway-conformance-\d+`), "ROOT"},
	}
)

// readError finds the error and the lines of the Dockerfile that stand before it.
func (s *Status) readError(lines []string) {
	for i, line := range lines {
		if strings.Contains(line, " | >>> ") || place.MatchString(line) {
			s.Excerpt = append(s.Excerpt, strings.TrimSpace(line))
		}
		if !prefixes.MatchString(line) {
			continue
		}
		text := strings.TrimSpace(prefixes.ReplaceAllString(strings.Join(lines[i:], "\n"), ""))
		for _, v := range volatile {
			text = v.re.ReplaceAllString(text, v.to)
		}
		s.Error = text
		slices.Sort(s.Excerpt) // two places come in any order
		return
	}
}

var stepPlatform = regexp.MustCompile(`^\[linux/[^ ]+ `)

// Names are the steps' names, sorted. Of several platforms that share a step it is named after any,
// so that their names are left out.
func (s *Status) Names() []string {
	var all []string
	for n := range s.Steps {
		all = append(all, stepPlatform.ReplaceAllString(n, "["))
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// Cached says of each step what became of it.
func (s *Status) Cached() []string {
	all := s.Names()
	for i, n := range all {
		all[i] = s.Steps[n] + ": " + n
	}
	return all
}
