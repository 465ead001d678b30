package frontend

import (
	"os"
	"strings"
	"testing"
)

func TestVersionOfRelease(t *testing.T) {
	mod, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	if want := "\tgithub.com/moby/buildkit " + buildkitRelease + "\n"; !strings.Contains(string(mod), want) {
		t.Errorf("go.mod has no line %q: buildkitRelease is to follow it", want)
	}
	if v := Version(); v == "" || strings.Contains(v, "dev") {
		t.Errorf("the frontend's version is %q", v)
	}
}
