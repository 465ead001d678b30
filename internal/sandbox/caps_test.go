package sandbox

import (
	"slices"
	"testing"
)

func TestCapabilitySet(t *testing.T) {
	all, err := capabilities(true)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(all, "CAP_SYS_ADMIN") || !slices.Contains(all, "CAP_CHOWN") {
		t.Skip("this process has not the capabilities that are tested")
	}
	def, err := capabilities(false)
	if err != nil {
		t.Fatal(err)
	}
	without := func(list []string, c string) []string {
		return slices.DeleteFunc(slices.Clone(list), func(x string) bool { return x == c })
	}
	for _, tc := range []struct {
		name      string
		add, drop []string
		insecure  bool
		want      []string
	}{
		{"neither", nil, nil, false, def},
		{"one more", []string{"CAP_SYS_ADMIN"}, nil, false, nil},
		{"one less", nil, []string{"CAP_CHOWN"}, false, without(def, "CAP_CHOWN")},
		{"none", nil, []string{"ALL"}, false, nil},
		{"only one", []string{"CAP_CHOWN"}, []string{"ALL"}, false, []string{"CAP_CHOWN"}},
		{"all", []string{"ALL"}, nil, false, all},
		{"all but one", []string{"ALL"}, []string{"CAP_CHOWN"}, false, without(all, "CAP_CHOWN")},
		{"added and dropped", []string{"CAP_CHOWN"}, []string{"CAP_CHOWN"}, false, def},
		{"privileged", nil, []string{"ALL"}, true, all},
	} {
		if tc.name == "one more" {
			for _, c := range all { // in the order of all
				if c == "CAP_SYS_ADMIN" || slices.Contains(def, c) {
					tc.want = append(tc.want, c)
				}
			}
		}
		got, err := capabilitySet(&Spec{CapAdd: tc.add, CapDrop: tc.drop, Insecure: tc.insecure})
		if err != nil || !slices.Equal(got, tc.want) {
			t.Errorf("%s: got %v, %v; want %v", tc.name, got, err, tc.want)
		}
	}
	for in, want := range map[string]string{"chown": "CAP_CHOWN", " CAP_kill ": "CAP_KILL", "all": "ALL", "moon": "", "": ""} {
		if got, err := Capability(in); got != want || (err == nil) != (want != "") {
			t.Errorf("Capability(%q) = %q, %v; want %q", in, got, err, want)
		}
	}
}
