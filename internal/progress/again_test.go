package progress

import (
	"strings"
	"testing"
)

// Why a step ran again is a status of it, and a line where displays are lines.
func TestAgain(t *testing.T) {
	for mode, want := range map[string]string{
		"plain":   " ran again: a^Jb https://xxxxx:xxxxx@h/\n",
		"auto":    " ran again: a^Jb https://xxxxx:xxxxx@h/\n",
		"rawjson": `"id":"ran again: a\nb https://xxxxx:xxxxx@h/"`,
		"quiet":   "",
	} {
		var out, log strings.Builder
		d, err := NewDisplay(t.Context(), DisplayOptions{Mode: mode, Out: &out, Limits: LogLimits})
		if err != nil {
			t.Fatal(err)
		}
		l := NewLog(&log)
		s := Start(Multi(d, l), Vertex{Digest: "sha256:1", Name: "RUN"})
		s.Again("a\nb https://user:secret@h/")
		s.Done(nil)
		d.Wait()
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if want == "" && out.Len() > 0 || !strings.Contains(out.String(), want) {
			t.Errorf("%s shows\n%s\nwant %q", mode, out.String(), want)
		}
		if !strings.Contains(log.String(), "#1 ran again: a") || strings.Contains(log.String(), "secret") {
			t.Errorf("the log is\n%s", log.String())
		}
	}
}
