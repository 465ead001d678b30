package store

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestLastBuilds(t *testing.T) {
	s := newStore(t)
	if all := s.LastBuilds("thing"); len(all) > 0 {
		t.Errorf("of what was never built there is %v", all)
	}
	var want []LastBuild
	for _, id := range []string{"1", "2", "3"} {
		b, err := s.NewBuild(id)
		must(t, err)
		must(t, b.Close())
		l := LastBuild{id, "e" + id, "l", "g" + id}
		must(t, s.AddLast("thing", l))
		want = append([]LastBuild{l}, want...)
	}
	must(t, s.AddLast("other", LastBuild{"3", "x", "y", ""}))
	if all := s.LastBuilds("thing"); !slices.Equal(all, want) {
		t.Errorf("they are %v, want %v", all, want)
	}
	f, err := os.OpenFile(s.lastFile("thing"), os.O_APPEND|os.O_WRONLY, 0)
	must(t, err)
	_, err = f.WriteString("../.. a b\nodd\n4\x00 e l\n\x00\x00\x005 e5 l\n6 torn l")
	must(t, err)
	must(t, f.Close())
	want = append([]LastBuild{{"5", "e5", "l", ""}}, want...) // it was added after a loss of power, which left zeros before it
	if all := s.LastBuilds("thing"); !slices.Equal(all, want) {
		t.Errorf("of a damaged file they are %v, want %v", all, want)
	}

	// What is on the disk of another boot's graphs is not known.
	boot := s.boot
	s.boot = "another"
	if all := s.LastBuilds("thing"); all[2].ID != "2" || all[2].Graph != "" {
		t.Errorf("after a boot they are %v", all)
	}
	s.boot = boot

	// They go with the records, and the file with the last of them.
	must(t, s.RemoveBuild("3"))
	must(t, s.forgetLast())
	if all := s.LastBuilds("thing"); !slices.Equal(all, want[2:]) {
		t.Errorf("when some are gone they are %v, want %v", all, want[2:])
	}
	if _, err := os.Lstat(s.lastFile("other")); !os.IsNotExist(err) {
		t.Errorf("the file of what has no records is left: %v", err)
	}
	_, _, err = s.PruneBuilds(History{})
	must(t, err)
	if left, err := os.ReadDir(filepath.Join(s.root, "last")); err != nil || len(left) > 0 {
		t.Errorf("when all are gone there is %v, %v", left, err)
	}
}
