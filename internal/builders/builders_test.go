package builders

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
)

func names(l List) (all []string) {
	for _, b := range l.Builders {
		all = append(all, b.Name)
	}
	return all
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestManyChangeAtOnce(t *testing.T) {
	file := filepath.Join(t.TempDir(), "a", "builders.json")
	var wg sync.WaitGroup
	errs := make([]error, 50)
	for i := range errs {
		wg.Go(func() {
			errs[i] = Change(file, func(l *List) error {
				l.Put(Builder{Name: fmt.Sprintf("b%02d", i)})
				return nil
			})
		})
	}
	wg.Wait()
	must(t, errors.Join(errs...))
	l, err := Read(file)
	must(t, err)
	if got := names(l); len(got) != len(errs) || !slices.IsSorted(got) {
		t.Errorf("the names are %v, want %d in their order", got, len(errs))
	}
	if left, err := os.ReadDir(filepath.Dir(file)); err != nil || len(left) != 1 {
		t.Errorf("%v are left, want the file alone: %v", left, err)
	}
}

func TestDamagedIsEmpty(t *testing.T) {
	for name, content := range map[string]string{"no JSON": "{", "another shape": `{"builders": 7}`, "empty": "", "long": `{"current":"` + strings.Repeat("x", maxSize) + `"}`} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "builders.json")
			must(t, os.WriteFile(file, []byte(content), 0o600))
			must(t, os.WriteFile(file+".new", []byte("what a killed process left"), 0o600))
			if l, err := Read(file); !errors.Is(err, ErrDamaged) || len(l.Builders) > 0 || l.Current != "" {
				t.Errorf("Read gives %v, %v, want nothing and an ErrDamaged", l, err)
			}
			must(t, Change(file, func(l *List) error { l.Put(Builder{Name: "x"}); return nil }))
			l, err := Read(file)
			if err != nil || !slices.Equal(names(l), []string{"x"}) {
				t.Errorf("after a change it is %v, %v", l, err)
			}
		})
	}
	dir := t.TempDir()
	must(t, syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o600))
	if _, err := Read(filepath.Join(dir, "fifo")); !errors.Is(err, ErrDamaged) { // and it does not wait for who writes
		t.Errorf("reading a pipe: %v", err)
	}
}

func TestReadDropsWhatNobodyWrites(t *testing.T) {
	file := filepath.Join(t.TempDir(), "builders.json")
	must(t, os.WriteFile(file, []byte(`{"current":"gone","contexts":["default","a","../b"],"builders":[
		{"name":"z"},{"name":"default"},{"name":"../up"},{"name":""},{"name":"A"},{"name":"a"}]}`), 0o600))
	l, err := Read(file)
	must(t, err)
	if !slices.Equal(names(l), []string{"A", "z"}) || l.CurrentBuilder() != nil || !slices.Equal(l.Contexts, []string{"a"}) {
		t.Errorf("it is %+v", l)
	}
}

func TestFailedChangeChangesNothing(t *testing.T) {
	file := filepath.Join(t.TempDir(), "builders.json")
	must(t, Change(file, func(l *List) error { l.Put(Builder{Name: "x"}); l.Current = "X"; return nil }))
	wrong := errors.New("wrong")
	if err := Change(file, func(l *List) error { l.Remove("x"); return wrong }); !errors.Is(err, wrong) {
		t.Errorf("the error is %v", err)
	}
	if l, err := Read(file); err != nil || l.CurrentBuilder() == nil {
		t.Errorf("it is %v, %v", l, err)
	}
}

// A builder is found by its name; the default one is always there, and the current one where none is named.
func TestNamed(t *testing.T) {
	l := &List{}
	mine := Builder{Name: "mine", Driver: "docker-container", Node: "mine0"}
	l.Put(mine)
	own := Builder{Name: Default, Driver: "docker", Node: Default}
	for _, tc := range []struct {
		current, name string
		want          Builder
	}{
		{"", "", own}, {"", "Mine", mine}, {"mine", "", mine}, {"mine", Default, own}, {"gone", "", own},
	} {
		l.Current = tc.current
		if got, err := l.Named(tc.name); err != nil || !reflect.DeepEqual(got, tc.want) {
			t.Errorf("with %q in use, %q is %+v, %v", tc.current, tc.name, got, err)
		}
	}
	if b, err := l.Named("nosuch"); err == nil || err.Error() != `no builder "nosuch" found` {
		t.Errorf("a builder that is not there is %+v, %v", b, err)
	}
}
