package store

import (
	"database/sql"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestReleasedStores opens a store of each released version, testdata/store-VERSION.tar.gz: it has become one of today's, nothing of it is
// lost, and the steps that made its version are what they were. hack/store-fixture.sh makes the next one.
func TestReleasedStores(t *testing.T) {
	needRoot(t)
	archives, err := filepath.Glob("testdata/store-*.tar.gz")
	must(t, err)
	if len(archives) == 0 {
		t.Fatal("there is no store of a released version")
	}
	current := tables(t, newStore(t))
	for _, archive := range archives {
		t.Run(strings.TrimSuffix(filepath.Base(archive), ".tar.gz"), func(t *testing.T) {
			dir := shm(t)
			if out, err := exec.Command("tar", "-C", dir, "-xpzf", archive).CombinedOutput(); err != nil {
				t.Fatalf("unpacking: %v: %s", err, out)
			}
			root := filepath.Join(dir, "store")
			v, then := asReleased(t, root)
			if got := stepsMake(t, v); got != then {
				t.Errorf("the first %d steps make\n%s\nand made, when they were released,\n%s", v, got, then)
			}
			s := open(t, root)
			if got := tables(t, s); got != current {
				t.Errorf("upgraded it has\n%s\nwant what a new one has:\n%s", got, current)
			}
			kept(t, s)
		})
	}
}

// asReleased reads the version and the tables of a store without opening it as one, and has all of it be synced.
func asReleased(t *testing.T, root string) (v int, schema string) {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(root, "meta.db"))
	must(t, err)
	v, _, err = (&Store{}).version(db)
	must(t, err)
	must(t, db.QueryRow(allTables).Scan(&schema))
	for _, table := range []string{"results", "memo"} { // what was not synced before another boot goes when the store is opened
		_, err := db.Exec("UPDATE " + table + " SET boot=''")
		must(t, err)
	}
	must(t, db.Close())
	return v, schema
}

// stepsMake is what the tables of a new store are after the first steps alone.
func stepsMake(t *testing.T, n int) string {
	t.Helper()
	all := steps
	defer func() { steps = all }()
	if n > len(all) {
		t.Fatalf("the store has version %d, and there are %d steps", n, len(all))
	}
	steps = all[:n]
	return tables(t, newStore(t))
}

// kept looks for what such a store has: an image of two layers, the results of its steps, and a container.
func kept(t *testing.T, s *Store) {
	t.Helper()
	img, err := s.Image(t.Context(), "example.com/fixture:v1")
	must(t, err)
	if want := "sha256:4fd53a4c673517211628ed63b19b42fa3a96a7efe449b9c15879bd35d7ccd759"; img.ID.String() != want || len(img.Layers) != 2 {
		t.Errorf("the image is %s with %d layers, want %s with 2", img.ID, len(img.Layers), want)
	}
	containers, err := s.ContainersNamed(t.Context(), "kept")
	must(t, err)
	if len(containers) != 1 {
		t.Errorf("there are %d containers of the name", len(containers))
	}
	for _, l := range img.Layers {
		dir, err := s.Dir(t.Context(), l)
		must(t, err)
		if _, err := os.Stat(dir); err != nil {
			t.Error(err)
		}
	}
	report, err := s.CheckAll(t.Context(), CheckOptions{})
	must(t, err)
	if !report.Clean() || report.Images != 1 || report.Results != 2 || report.Layers != 2 {
		t.Errorf("the check tells %+v", report)
	}
}
