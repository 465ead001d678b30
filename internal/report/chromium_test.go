package report

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/slipway-build/slipway/internal/timing"
	"github.com/slipway-build/slipway/internal/view/imagesize"
)

// chromium is a headless browser with one page, driven by its protocol (Chrome DevTools) over two pipes: messages are JSON, each with a zero byte
// behind it.
type chromium struct {
	t       *testing.T
	in      *os.File
	out     *bufio.Reader
	id      int
	session string
	told    []string // errors of the console
}

type devtools struct {
	ID     int             `json:"id,omitempty"`
	Method string          `json:"method,omitempty"`
	Params any             `json:"params,omitempty"`
	To     string          `json:"sessionId,omitempty"`
	Result json.RawMessage `json:"result,omitempty"`
	Error  json.RawMessage `json:"error,omitempty"`
}

// startChromium starts the browser of $CHROMIUM, or the one that is there; without one the test is left out.
func startChromium(t *testing.T) *chromium {
	t.Helper()
	program, wanted := os.LookupEnv("CHROMIUM")
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if program == "" {
			program, _ = exec.LookPath(name)
		}
	}
	if program == "" && !wanted {
		t.Skip("there is no chromium")
	}
	fromUs, in, err := os.Pipe()
	must(t, err)
	out, toUs, err := os.Pipe()
	must(t, err)
	cmd := exec.Command(program, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-dev-shm-usage", "--remote-debugging-pipe", "--user-data-dir="+t.TempDir(), "about:blank")
	cmd.ExtraFiles = []*os.File{fromUs, toUs} // 3 and 4
	var said bytes.Buffer
	cmd.Stderr = &said
	must(t, cmd.Start())
	must(t, errors.Join(fromUs.Close(), toUs.Close()))
	timer := time.AfterFunc(3*time.Minute, func() { _ = cmd.Process.Kill() }) // one that hangs ends the test
	c := &chromium{t: t, in: in, out: bufio.NewReaderSize(out, 1<<20)}
	t.Cleanup(func() {
		c.call("Browser.close", nil, nil)
		_ = cmd.Wait()
		timer.Stop()
		in.Close()
		out.Close()
		if t.Failed() {
			t.Logf("chromium says:\n%s", said.String())
		}
	})
	var target struct {
		TargetID  string `json:"targetId"`
		SessionID string `json:"sessionId"`
	}
	c.call("Target.createTarget", map[string]any{"url": "about:blank"}, &target)
	c.call("Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &target)
	c.session = target.SessionID
	for _, domain := range []string{"Page", "Log", "Runtime"} {
		c.call(domain+".enable", nil, nil)
	}
	return c
}

// call calls a method, and waits for its result; into may be nil.
func (c *chromium) call(method string, params, into any) {
	c.t.Helper()
	c.id++
	msg, err := json.Marshal(devtools{ID: c.id, Method: method, Params: params, To: c.session})
	must(c.t, err)
	_, err = c.in.Write(append(msg, 0))
	must(c.t, err)
	for {
		got := c.next()
		if got.ID != c.id {
			continue
		}
		if len(got.Error) > 0 {
			c.t.Fatalf("%s: %s", method, got.Error)
		}
		if into != nil {
			must(c.t, json.Unmarshal(got.Result, into))
		}
		return
	}
}

// next is the next message.
func (c *chromium) next() (got devtools) {
	c.t.Helper()
	raw, err := c.out.ReadBytes(0)
	must(c.t, err)
	must(c.t, json.Unmarshal(raw[:len(raw)-1], &got))
	if got.Method == "Log.entryAdded" || got.Method == "Runtime.consoleAPICalled" || got.Method == "Runtime.exceptionThrown" {
		c.told = append(c.told, string(raw[:len(raw)-1]))
	}
	return got
}

// open shows a file, and waits until it is loaded.
func (c *chromium) open(file string) {
	c.t.Helper()
	c.call("Page.navigate", map[string]any{"url": (&url.URL{Scheme: "file", Path: file}).String()}, nil)
	for c.eval("location.protocol + document.readyState") != "file:complete" {
		c.next()
	}
}

// eval is what an expression gives, as text.
func (c *chromium) eval(expression string) string {
	c.t.Helper()
	var got struct {
		Result           struct{ Value any }
		ExceptionDetails json.RawMessage
	}
	c.call("Runtime.evaluate", map[string]any{"expression": expression, "returnByValue": true}, &got)
	if len(got.ExceptionDetails) > 0 {
		c.t.Fatalf("%s: %s", expression, got.ExceptionDetails)
	}
	return fmt.Sprint(got.Result.Value)
}

// key presses a key.
func (c *chromium) key(name, text string, code int) {
	c.t.Helper()
	for _, kind := range []string{"keyDown", "keyUp"} {
		c.call("Input.dispatchKeyEvent", map[string]any{"type": kind, "key": name, "code": name, "text": text, "windowsVirtualKeyCode": code}, nil)
	}
}

// show sets what the page is shown on, and leaves a picture in the directory $SCREENSHOTS, if that is set.
func (c *chromium) show(width int, scheme string) {
	c.t.Helper()
	c.call("Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500}, nil)
	c.call("Emulation.setEmulatedMedia", map[string]any{"features": []map[string]string{{"name": "prefers-color-scheme", "value": scheme}}}, nil)
	dir := os.Getenv("SCREENSHOTS")
	if dir == "" {
		return
	}
	var shot struct{ Data string }
	c.call("Page.captureScreenshot", map[string]any{"captureBeyondViewport": true}, &shot)
	png, err := base64.StdEncoding.DecodeString(shot.Data)
	must(c.t, err)
	must(c.t, os.WriteFile(filepath.Join(dir, fmt.Sprintf("page-%d-%s.png", width, scheme)), png, 0o644))
}

// faint is an expression that gives the texts whose contrast with what is behind them is less than 4.5, as WCAG 2 (AA) wants it.
const faint = `(() => {
	const rgb = s => { const m = s.match(/[\d.]+/g).map(Number); return m.length > 3 && m[3] === 0 ? null : m };
	const light = c => { const [r, g, b] = c.map(v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4); return .2126 * r + .7152 * g + .0722 * b };
	const back = e => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor); if (c) return c } return matchMedia('(prefers-color-scheme: dark)').matches ? [0, 0, 0] : [255, 255, 255] };
	const found = new Set();
	for (const e of document.querySelectorAll('body *:not(svg *), #sizes svg text')) {
		const tile = e.closest('#sizes a')?.querySelector('rect');
		if (![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())) continue;
		const a = light(rgb(tile ? getComputedStyle(e).fill : getComputedStyle(e).color)), b = light(tile ? rgb(getComputedStyle(tile).fill) : back(e));
		const contrast = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
		if (contrast < 4.5) found.add(e.tagName + '.' + e.className + ' ' + contrast.toFixed(1));
	}
	return [...found].join('; ');
})()`

// The page in a browser: nothing is complained of, it fits on a telephone, it is readable in both colour schemes and without scripts, and all that
// opens does by the keyboard.
func TestChromium(t *testing.T) {
	file := filepath.Join(t.TempDir(), "page.html")
	if given := os.Getenv("PAGE"); given != "" { // another page, to be looked at
		file = given
	} else {
		writeExample(t, file)
	}
	c := startChromium(t)
	c.call("Emulation.setScriptExecutionDisabled", map[string]any{"value": true}, nil)
	c.open(file)
	for _, width := range []int{390, 768, 1280} {
		for _, scheme := range []string{"light", "dark"} {
			c.show(width, scheme)
			if got := c.eval("Math.max(document.documentElement.scrollWidth, document.body.scrollWidth)"); got != fmt.Sprint(width) {
				t.Errorf("at a width of %d the page has %s", width, got)
			}
			if got := c.eval(faint); got != "" {
				t.Errorf("too faint in %s: %s", scheme, got)
			}
			if dark := c.eval("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"; dark != (scheme == "dark") {
				t.Errorf("in %s it is dark: %v", scheme, dark)
			}
		}
	}
	if got := c.eval("[...document.querySelectorAll('table, svg[role]')].filter(e => e.getBoundingClientRect().height < 20).map(e => e.outerHTML.slice(0, 200)).join()"); got != "" {
		t.Errorf("without scripts there is no %s", got)
	}
	if got := c.eval("document.querySelectorAll('table').length"); got == "0" {
		t.Error("there are no tables")
	}
	testKeyboard(t, c)
	if len(c.told) > 0 {
		t.Errorf("the browser complains: %s", strings.Join(c.told, "\n"))
	}
}

// testKeyboard goes to the treemap by the tabulator, opens an area, and then a part of the list.
func testKeyboard(t *testing.T, c *chromium) {
	t.Helper()
	at := func(selector string) bool {
		for range 300 {
			c.key("Tab", "", 9)
			if c.eval("!!document.activeElement.closest('"+selector+"')") == "true" {
				return true
			}
		}
		t.Errorf("the keyboard does not lead to %s", selector)
		return false
	}
	if !at("#sizes svg a") {
		return
	}
	if got := c.eval("getComputedStyle(document.activeElement.querySelector('rect')).strokeWidth"); got != "3px" {
		t.Errorf("where the keyboard is shows a frame of %s", got)
	}
	want := c.eval("document.activeElement.getAttribute('href')")
	c.key("Enter", "\r", 13)
	if got := c.eval("location.hash"); got != want {
		t.Errorf("Enter in the treemap leads to %q, want %q", got, want)
	}
	if got := c.eval("document.querySelector(':target').checkVisibility() && document.querySelector(':target').getBoundingClientRect().top < innerHeight"); got != "true" {
		t.Errorf("%s cannot be seen", want)
	}
	if !at("details summary") {
		return
	}
	was := c.eval("document.activeElement.parentElement.open")
	c.key("Enter", "\r", 13)
	if got := c.eval("document.activeElement.parentElement.open"); got == was {
		t.Errorf("Enter leaves a part open: %s", got)
	}
}

// writeExample writes a page with texts of all lengths.
func writeExample(t *testing.T, file string) {
	t.Helper()
	of, procs := example()
	long := strings.Repeat("long-word", 60)
	deep := &imagesize.Node{Name: long, Size: 30, Children: []*imagesize.Node{{Name: "inner", Size: 20}, {Name: "rest", Size: 10}}}
	var out bytes.Buffer
	must(t, WritePage(&out, &Page{
		Timing: of, Processes: procs, Comparison: timing.Compare(of, of),
		Log:   strings.NewReader("#1 [build 2/3] RUN make " + long + "\n#1 0.1 " + long + "\n#1 DONE 0.1s\n"),
		Sizes: &imagesize.Node{Name: "/", Size: 100, Children: []*imagesize.Node{{Name: "usr", Size: 60, Children: []*imagesize.Node{deep, {Name: "lib", Size: 30}}}, {Name: "etc", Size: 40}}},
	}))
	must(t, os.WriteFile(file, out.Bytes(), 0o600))
}
