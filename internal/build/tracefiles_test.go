package build

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
)

// A trace of somebody else's is looked at before it becomes a part of a record.
func TestForeignTrace(t *testing.T) {
	for name, want := range map[string]bool{"opened-": false, "opened-0a": true, "opened-0": false, "opened-../x": false, "opened-zz": false, "0a": false} {
		if got := IsRecordFile(name); got != want {
			t.Errorf("%q is a file of a record: %t", name, got)
		}
	}
	for text, want := range map[string]bool{"": true, "o/a\x00x/a\x00d/\x00": true, "o/a": false, "?/a\x00": false, "o" + strings.Repeat("/", 4097) + "\x00": false} {
		path := filepath.Join(t.TempDir(), "opened-0a")
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		zip := gzip.NewWriter(f)
		if _, err := zip.Write([]byte(text)); err != nil || zip.Close() != nil || f.Close() != nil {
			t.Fatal(err)
		}
		if err := (&Record{}).checkFile(path, "opened-0a"); (err == nil) != want {
			t.Errorf("%.20q: %v", text, err)
		}
	}
	path := filepath.Join(t.TempDir(), "opened-0a")
	if err := os.WriteFile(path, []byte("no archive"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := (&Record{}).checkFile(path, "opened-0a"); err == nil {
		t.Error("what is no archive is a trace")
	}
}
