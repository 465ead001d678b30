package cli

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	units "github.com/docker/go-units"

	"github.com/slipway-build/slipway/internal/terminal"
)

// transferDisplay shows the layers of a pull or a push as Docker does: on a terminal each has a line
// that changes, elsewhere each change of its words is a line, and bytes are not told.
type transferDisplay struct {
	mu    sync.Mutex
	w     io.Writer // nil: quiet; what comes from outside is made harmless before it, if live
	live  bool
	lines map[string]int    // place of each layer's line, from the top
	words map[string]string // what was said of each layer last
	drawn map[string]time.Time
	err   error
}

func newTransferDisplay(w io.Writer, quiet bool) *transferDisplay {
	d := &transferDisplay{w: raw(w), live: isTerminal(w)}
	if quiet {
		d.w = nil
	}
	d.reset()
	return d
}

func (d *transferDisplay) reset() {
	d.lines, d.words, d.drawn = map[string]int{}, map[string]string{}, map[string]time.Time{}
}

// Printf prints a line of its own. The layers before it do not change any more.
func (d *transferDisplay) Printf(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.reset()
	text := fmt.Sprintf(format, args...)
	if d.live {
		text = terminal.Text(text)
	}
	d.print(text)
}

func (d *transferDisplay) print(s string) {
	if d.w == nil || d.err != nil {
		return
	}
	_, d.err = io.WriteString(d.w, s) // a reader that is gone ends the program by its signal
}

// redrawPeriod is the time between two pictures of a line.
const redrawPeriod = 100 * time.Millisecond

// Layer says what is done with a layer, and how far that is: current is less than total as long as it
// is under way.
func (d *transferDisplay) Layer(id, words string, current, total int64) {
	if d.live {
		id, words = terminal.Line(id), terminal.Line(words)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	same := d.words[id] == words
	if same && (!d.live || time.Since(d.drawn[id]) < redrawPeriod) {
		return
	}
	d.words[id], d.drawn[id] = words, time.Now()
	moving := total > 0 && current < total
	if !d.live {
		if !moving {
			d.print(id + ": " + words + "\n")
		}
		return
	}
	if moving {
		words += " " + bar(current, total)
	}
	at, ok := d.lines[id]
	if !ok {
		d.lines[id] = len(d.lines)
		d.print(id + ": " + words + "\n")
		return
	}
	up := len(d.lines) - at
	d.print(fmt.Sprintf("\x1b[%dA\x1b[2K\r%s: %s\x1b[%dB\r", up, id, words, up))
}

// bar is Docker's progress bar.
func bar(current, total int64) string {
	const width = 50
	n := int(min(current, total) * width / total)
	head := ">"
	if n == width {
		head = ""
	}
	return fmt.Sprintf("[%s%s%s]  %s/%s", strings.Repeat("=", n), head, strings.Repeat(" ", max(0, width-n-len(head))),
		units.HumanSize(float64(current)), units.HumanSize(float64(total)))
}

// Close ends the display.
func (d *transferDisplay) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.err
}
