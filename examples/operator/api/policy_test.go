package api

import (
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	good := "- {name: secrets, resources: [secrets], level: metadata, retainDays: 30}\n"
	for _, c := range []struct{ name, text, want string }{
		{"good", good, ""},
		{"twice", good + good, "declared twice"},
		{"level", strings.Replace(good, "metadata", "everything", 1), `level is "everything"`},
		{"days", strings.Replace(good, "30", "0", 1), "retainDays is 0"},
		{"unknown field", strings.Replace(good, "level:", "depth:", 1), "depth"},
	} {
		t.Run(c.name, func(t *testing.T) {
			list, err := Parse([]byte(c.text))
			switch {
			case c.want == "" && (err != nil || len(list) != 1 || list[0].Name != "secrets"):
				t.Errorf("got %+v, error %v", list, err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("got error %v, want one with %q", err, c.want)
			}
		})
	}
}
