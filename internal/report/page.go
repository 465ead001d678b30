package report

import (
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"io"
	"strings"
	"time"

	"github.com/slipway-build/slipway/internal/processes"
	"github.com/slipway-build/slipway/internal/terminal"
	"github.com/slipway-build/slipway/internal/timing"
	"github.com/slipway-build/slipway/internal/view/imagesize"
)

// Page is what a page about a build shows. All but Timing may be missing.
type Page struct {
	Timing     *timing.Timing
	Comparison *timing.Comparison // with the build before
	Log        io.Reader          // as a record has it
	Processes  []processes.Process
	Sizes      *imagesize.Node // of the image, or of its layers
}

//go:embed page.html
var pageHTML string

//go:embed page.css
var pageCSS string

// WritePage writes a page: one file of HTML that needs nothing else, and has no scripts. Its policy forbids to load or to run anything,
// besides that all texts are escaped.
func WritePage(w io.Writer, p *Page) error {
	view, err := p.view()
	if err != nil {
		return fmt.Errorf("writing the page: %w", err)
	}
	tmpl, err := template.New("page").Funcs(template.FuncMap{
		"seconds": timing.Seconds, "bytes": timing.Size, "clean": clean, "state": func(s *timing.Step) string { return s.State.Word() }, "why": why,
		"cpu": func(s *timing.Step) string {
			if s.Process == nil || s.Process.Usage == nil {
				return ""
			}
			return timing.Seconds(s.Process.Usage.User + s.Process.Usage.System)
		},
		"memory": func(s *timing.Step) string {
			if s.Process == nil || s.Process.Usage == nil {
				return ""
			}
			return timing.Size(s.Process.Usage.Memory)
		},
		"idle": func(d time.Duration) string {
			if d < 5*time.Millisecond {
				return ""
			}
			return timing.Seconds(d)
		},
		"difference": timing.Change.Difference, "signed": timing.SizeDifference, "word": func(w timing.Which) string { return string(w) },
		"part": func(n *imagesize.Node) int { return view.parts[n] },
	}).Parse(pageHTML)
	if err != nil {
		return fmt.Errorf("writing the page: %w", err)
	}
	return tmpl.Execute(w, view)
}

// pageView is what the template is given.
type pageView struct {
	*Page
	CSS      template.CSS
	Hash     string // of CSS, for the page's policy
	Timeline timeline
	Graph    graph
	Treemap  []tile
	Logs     []stepLog
	Most     []processes.Process // those that used most time
	Busy     time.Duration       // of processors, of all RUNs

	parts map[*imagesize.Node]int // of Sizes, by which the treemap leads to them
}

func (p *Page) view() (*pageView, error) {
	sum := sha256.Sum256([]byte(pageCSS))
	v := &pageView{
		Page: p, CSS: template.CSS(pageCSS), Hash: "sha256-" + base64.StdEncoding.EncodeToString(sum[:]), //nolint:gosec // it is ours
		Timeline: timelineOf(p.Timing), Graph: graphOf(p.Timing), Treemap: treemapOf(p.Sizes), Most: longestProcesses(p.Processes), parts: map[*imagesize.Node]int{},
	}
	number(p.Sizes, v.parts)
	for i := range p.Timing.Steps {
		if pr := p.Timing.Steps[i].Process; pr != nil && pr.Usage != nil {
			v.Busy += pr.Usage.User + pr.Usage.System
		}
	}
	if p.Log != nil {
		var err error
		if v.Logs, err = stepLogs(p.Log); err != nil {
			return nil, err
		}
	}
	return v, nil
}

// clean is a text of others as a page shows it: what is no letter, as what changes the direction of a line, is seen as such.
func clean(s string) string { return terminal.Text(s) }

// plainLine is a line without the sequences that colour it.
func plainLine(s string) string {
	for {
		i := strings.Index(s, "\x1b[")
		if i < 0 {
			return clean(s)
		}
		end := strings.IndexFunc(s[i+2:], func(r rune) bool { return r >= '@' && r <= '~' })
		if end < 0 {
			return clean(s)
		}
		s = s[:i] + s[i+2+end+1:]
	}
}

// number gives numbers to a part and those below it.
func number(n *imagesize.Node, parts map[*imagesize.Node]int) {
	if n == nil {
		return
	}
	parts[n] = len(parts)
	for _, c := range n.Children {
		number(c, parts)
	}
}

// StepSizes are the sizes of a build's layers by the steps that made them, or nil where none is known.
func StepSizes(t *timing.Timing) *imagesize.Node {
	root := &imagesize.Node{Name: "layers"}
	for i := range t.Steps {
		if s := &t.Steps[i]; s.Size > 0 {
			root.Size += s.Size
			root.Children = append(root.Children, &imagesize.Node{Name: s.Name, Size: s.Size})
		}
	}
	if len(root.Children) == 0 {
		return nil
	}
	return root
}
